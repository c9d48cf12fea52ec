"""Certified radii of a trained network: lower bounds by verification, upper bounds by attacks."""

from certnas.certifier.batch import PROOF_MARGIN
from certnas.certifier.certificates import Certificates, Summary
from certnas.certifier.certification import CertificationProgress, certify
from certnas.certifier.soundness import SoundnessError

__all__ = ["PROOF_MARGIN", "Certificates", "CertificationProgress", "SoundnessError", "Summary", "certify"]
