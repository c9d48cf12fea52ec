"""certnas: certified robustness radii of neural networks, and architecture search guided by them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from certnas.siblings import install

install()

if TYPE_CHECKING:
    from certnas.certifier import Certificates, SoundnessError, certify

__version__ = "0.1.0"
__all__ = ["Certificates", "SoundnessError", "__version__", "certify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("certnas.certifier"), name)
    raise AttributeError(f"module 'certnas' has no attribute {name!r}")
