"""Certificates that `certnas.checker` can check: written from the bound engine's own planes."""

from certnas.proofs.checking import check_file, image_shape
from certnas.proofs.extract import plain
from certnas.proofs.files import encode, read
from certnas.proofs.record import certificate_of
from certnas.proofs.writing import Writer, Written

__all__ = ["Writer", "Written", "certificate_of", "check_file", "encode", "image_shape", "plain", "read"]
