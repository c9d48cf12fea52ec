"""The embedded networks: `certnas certify` runs without any other file."""

from collections.abc import Callable
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import nn

from certnas.models.embedded.digits import ARCHITECTURES


def _load(name: str) -> nn.Module:
    """The network with this name and its trained weights, in evaluation mode. Torch's random state is restored."""
    weights = files("certnas.models.embedded") / f"{name.replace('-', '_')}.safetensors"
    with torch.random.fork_rng(devices=[]):
        network = ARCHITECTURES[name]()
    network.load_state_dict(load(weights.read_bytes()))
    return network.eval()


EMBEDDED: dict[str, Callable[[], nn.Module]] = {
    "digits-cnn": lambda: _load("digits-cnn"),
    "digits-cell": lambda: _load("digits-cell"),
}
"""Name -> factory of a trained network in evaluation mode: x [N,1,8,8] in [0, 1] pixels -> logits [N,10]."""
