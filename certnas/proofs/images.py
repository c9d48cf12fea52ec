"""The certificate of one image: rows of the output are positive on a ball."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState, NodeAlphas, budget
from certnas.checker import Certificate, CertificatePart, Refutation
from certnas.proofs.extract import Plain
from certnas.proofs.outward import SLACK, Outward
from certnas.proofs.reading import array
from certnas.proofs.record import CertificateRecord, area


def certificate_of(
    network: bounds.Network,
    plain: Plain,
    region: bounds.Region,
    rows: Tensor,
    method: bounds.Method,
    *,
    memory: int | None = None,
    slack: float = SLACK,
    about: Mapping[str, object] | None = None,
) -> Certificate | None:
    """A certificate that rows·f > 0 on the region of one image; None if the method does not prove it.

    Each row is proved by the planes of CROWN (or α-CROWN), or by the intervals of the last nonlinear nodes, as in the
    method itself. α-CROWN's slopes are shared by the units of a tensor, since slopes of every unit would be too many
    to keep.

    network: the network in float64.
    plain: the result of `extract.plain` for it.
    region: the region of one image, with one radius and a box that is None or two numbers.
    rows: the rows, [1, S, K].
    method: α-CROWN, or any other method for CROWN.
    memory: the budget in bytes.
    slack: the share of 1 + their size by which bounds move outward.
    about: statements that the certificate stores without proof.
    """
    room = budget(memory, network.dtype, network.device)
    record, state, final = (
        CertificateRecord(plain, slack),
        Outward(network, region, room, method.slope, slack),
        None,
    )
    with torch.no_grad():
        (steps,) = record.steps(state, {})
        if isinstance(method, bounds.AlphaCrown):
            found = method.optimise(BoundState(network, region, room, method.slope), rows)
            state = state.again()
            steps += record.steps(state, found.alphas)[0]
            final = found.alphas[network.graph.output]
        refutations = _refutations(record, state, rows, final)
    if refutations is None:
        return None
    return Certificate(
        network=plain.network.output,
        **area(region),
        rows=array(rows[0])[:, None],
        offsets=np.zeros((rows.shape[1], 1)),
        parts=(CertificatePart(tuple(steps), tuple(refutations)),),
        planes=record.planes,
        about=dict(about or {}),
    )


def _refutations(
    record: CertificateRecord, state: Outward, rows: Tensor, node_alphas: NodeAlphas | None
) -> list[Refutation] | None:
    """Proves each row positive by planes or by intervals, whichever gives the larger bound; None if a row fails.

    A row of CROWN can be looser than interval arithmetic from CROWN's own intermediate bounds.
    """
    by_planes = state.lower_bounds(state.network.graph.output, rows, node_alphas)[0]
    planes_do = array(by_planes >= state.lower_bounds_by_intervals(rows)[0]) > 0
    formed, boxed = (np.flatnonzero(which).tolist() for which in (planes_do, ~planes_do))
    found = []
    for chosen in (formed, boxed):
        if not chosen:
            continue
        own = rows[:, chosen]
        way = (
            record.boxed(state, own)
            if chosen is boxed
            else record.formed(state, own, _of(node_alphas, chosen))
        )
        refutation, places = record.refuted(way.lower[0][:, None], chosen, way.planes[0])
        if len(places) < len(chosen):
            return None
        found.append(refutation)
    return found


def _of(node_alphas: NodeAlphas | None, rows: list[int]) -> NodeAlphas | None:
    """The slopes of some rows; slopes that all rows share are kept."""
    if node_alphas is None:
        return None
    return {
        name: tuple(t[:, rows] if t.shape[1] > 1 else t for t in alphas)
        for name, alphas in node_alphas.items()
    }
