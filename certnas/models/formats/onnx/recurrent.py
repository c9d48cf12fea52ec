"""Importer of ONNX's LSTM, unrolled into linear layers, sigmoids and products per time step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.limits import LISTED
from certnas.models.formats.onnx.site import Site, Step

_USUAL = [b"Sigmoid", b"Tanh", b"Tanh"]


def with_batch_inside(site: Site) -> Step:
    """Refuse a network with a batch as first dimension: layout=0 has the batch of the LSTM as second dimension."""
    raise site.refuse("works along the batch dimension; images must stay apart, or be the whole input")


def lstm(site: Site) -> Step:
    """x [*, time, batch, inputs] -> Y [*, time, directions, batch, hidden], Y_h, Y_c [*, directions, batch, hidden].

    The gates are in ONNX's order i, o, f, c. Initial states are constants. Hochreiter, Schmidhuber 1997;
    ONNX LSTM-14. Raises UserError for unusual settings: activations, clip, peepholes, lengths, layout=1.
    """
    sides = {b"forward": (1,), b"reverse": (-1,), b"bidirectional": (1, -1)}
    order = sides.get(site.attributes.get("direction", b"forward"))
    activations = site.attributes.get("activations") or _USUAL
    odd = [name for name in ("clip", "layout", "input_forget") if site.attributes.get(name)]
    if (
        order is None
        or odd
        or list(activations) != _USUAL * (len(activations) // 3)
        or site.has(4)
        or site.has(7)
    ):
        raise site.refuse(
            f"{', '.join(odd) or 'activations, lengths or peepholes'}; accepted: the usual LSTM"
        )
    weight, recurrent = site.constant(1), site.constant(2)
    time, hidden = site.shape()[-3], recurrent.shape[-1]
    if weight.shape != (len(order), 4 * hidden, site.shape()[-1]) or time > LISTED:
        raise site.refuse(f"weights {list(weight.shape)} for inputs {list(site.shape())}")
    given = [i for i in (0, 1, 2, 3, 5, 6) if site.has(i)]
    for i in given[1:]:
        site.constant(i)

    def apply(*arguments: Tensor) -> Tensor | tuple[Tensor, ...]:
        known = dict(zip(given, arguments, strict=True))
        x = known[0]
        found = [_direction(x, known, k, sign) for k, sign in enumerate(order)]
        steps, last, cells = (
            torch.stack(parts, dim) for parts, dim in zip(zip(*found, strict=True), (-3, -3, -3), strict=True)
        )
        results = (steps, last, cells)[: site.attributes["outputs"]]
        return results[0] if len(results) == 1 else results

    return Step(apply, tuple(given))


def _direction(x: Tensor, known: dict[int, Tensor], k: int, sign: int) -> tuple[Tensor, Tensor, Tensor]:
    """The states of all steps [*, time, batch, hidden], the last state, and the last cell state [*, batch, hidden]."""
    weight, recurrent = known[1][k], known[2][k]
    hidden = recurrent.shape[-1]
    bias = known[3][k].unflatten(0, (2, 4 * hidden)).sum(0) if 3 in known else None
    h, c = (known[i][k] if i in known else None for i in (5, 6))
    places = range(x.shape[-3])[::sign]
    steps: list[Tensor] = []
    for t in places:
        gates = F.linear(x.select(-3, t), weight, bias)
        gates = gates if h is None else gates + F.linear(h, recurrent)
        i, o, f, fresh = gates.split(hidden, -1)
        new = torch.sigmoid(i) * torch.tanh(fresh)
        c = new if c is None else new + torch.sigmoid(f) * c
        h = torch.sigmoid(o) * torch.tanh(c)
        steps.append(h)
    assert h is not None and c is not None
    return torch.stack(steps[::sign], -3), h, c
