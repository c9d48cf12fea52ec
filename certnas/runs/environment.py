"""The software versions that a result depends on."""

import platform
from importlib import metadata

import certnas

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "foolbox", "pyautoattack")


def versions() -> dict[str, str]:
    """The versions of Python, certnas and the libraries that a result depends on."""
    found = {"python": platform.python_version(), "certnas": certnas.__version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
