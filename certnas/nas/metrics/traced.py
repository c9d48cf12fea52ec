"""The graph of a network, traced once and bound to the current parameters at each step."""

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.errors import UserError
from certnas.nas.metrics.evaluation import normalising, without_none


class Traced:
    """Traces the network of a session once per structure and input size.

    A graph holds structure only, so another network of the same structure can reuse it. Tracing takes
    seconds.
    """

    def __init__(self, bn: str, keep_none: bool) -> None:
        self.bn = bn
        self.keep_none = keep_none
        self._graph: bounds.Graph | None = None
        self._modules: list[nn.Module] = []
        self._structure: tuple[str, ...] = ()

    def graph(self, network: nn.Module, x: Tensor) -> bounds.Graph:
        """The graph of the network. Raises UserError if the network contains an operator without bounds."""
        if self._graph is not None and tuple(x.shape[1:]) == self._graph.input_shape:
            if list(network.modules()) == self._modules:  # each is equal to itself alone
                return self._graph
            if _structure(network) == self._structure:  # a copy, as an unrolled step makes
                return self._graph
        try:
            with normalising(network, self.bn):
                self._graph = bounds.trace(network, x[:2])
            bounds.check(self._graph)
        except bounds.BoundsError as error:
            raise UserError(f"metric cb: this network has no bounds: {error}") from error
        self._modules, self._structure = list(network.modules()), _structure(network)
        return self._graph

    def bind(self, network: nn.Module, x: Tensor, dtype: torch.dtype) -> bounds.Network:
        """The graph with the network's current parameters, differentiable in them.

        x [N,C,H,W] is the batch for batch statistics.
        """
        graph = self.graph(network, x)
        tensors = {
            **dict(network.named_parameters(remove_duplicate=False)),
            **dict(network.named_buffers(remove_duplicate=False)),
            **({} if self.keep_none else without_none(network)),
        }
        wanted = {name: tensors[name] for name in graph.parameters.values() if name in tensors}
        return graph.bind(wanted, dtype=dtype, batch=x)


def _structure(network: nn.Module) -> tuple[str, ...]:
    """What two networks have in common that are the same function of their parameters."""
    names = (*dict(network.named_parameters(remove_duplicate=False)), *dict(network.named_buffers()))
    return repr(network), *names
