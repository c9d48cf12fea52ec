"""Certificates that `certnas.checker` can check: written from the bound engine's own planes."""

from certnas.proofs.checking import Checked, check_file, exact_work, image_shape, of_property
from certnas.proofs.extract import plain
from certnas.proofs.files import encode, read
from certnas.proofs.images import certificate_of
from certnas.proofs.properties import Uncertified, certificates_of
from certnas.proofs.writing import Writer, Written, open_folder, write_proof

__all__ = [
    "Checked",
    "Uncertified",
    "Writer",
    "Written",
    "certificate_of",
    "certificates_of",
    "check_file",
    "encode",
    "exact_work",
    "image_shape",
    "of_property",
    "open_folder",
    "plain",
    "read",
    "write_proof",
]
