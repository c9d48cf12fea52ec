"""Writes certificates from the bound engine's planes, and checks files of them with `certnas.checker`."""

from certnas.proofs.arithmetic import exact_work
from certnas.proofs.checking import Checked, check_file, image_shape, of_property
from certnas.proofs.claims import Claim
from certnas.proofs.extract import plain
from certnas.proofs.files import encode, read
from certnas.proofs.images import certificate_of
from certnas.proofs.pairing import held_image, held_rows, read_rows
from certnas.proofs.properties import Uncertified, certificates_of
from certnas.proofs.writing import Writer, Written, open_folder, with_files, write_proof

__all__ = [
    "Checked",
    "Claim",
    "Uncertified",
    "Writer",
    "Written",
    "certificate_of",
    "certificates_of",
    "check_file",
    "encode",
    "exact_work",
    "held_image",
    "held_rows",
    "image_shape",
    "of_property",
    "open_folder",
    "plain",
    "read",
    "read_rows",
    "with_files",
    "write_proof",
]
