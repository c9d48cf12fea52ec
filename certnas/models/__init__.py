"""Opening of networks for certification: `open_model` and its result."""

from certnas.models.architectures import ARCHITECTURES, Architecture
from certnas.models.normalize import Normalize
from certnas.models.opened import OpenedModel
from certnas.models.opening import open_model

__all__ = ["ARCHITECTURES", "Architecture", "Normalize", "OpenedModel", "open_model"]
