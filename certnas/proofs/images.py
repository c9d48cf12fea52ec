"""The certificate of one image: rows of the output are positive on a ball."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import bounds
from bounds.analysis import Analysis
from bounds.memory import budget
from certnas.checker import Certificate, Part
from certnas.proofs.extract import Plain
from certnas.proofs.outward import SLACK, Outward
from certnas.proofs.reading import array
from certnas.proofs.record import Record, area


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
    """A certificate that rows·f > 0 on the region of one image; None where CROWN, or α-CROWN if asked, shows it not.

    α-CROWN's slopes are shared by the units of a tensor here: those of each unit's own would be far too many to keep.
    network in float64, plain its `extract.plain`; region of one image, with one radius and a box that is none or two
    numbers; rows [1, S, K]; slack: by what share of 1 + their size bounds are moved outward.
    """
    room = budget(memory, network.dtype, network.device)
    record, analysis, final = Record(plain, slack), Outward(network, region, room, method.slope, slack), None
    with torch.no_grad():
        (steps,) = record.steps(analysis, {})
        if isinstance(method, bounds.AlphaCrown):
            found = method.optimise(Analysis(network, region, room, method.slope), rows)
            analysis = analysis.again()
            steps += record.steps(analysis, found.slopes)[0]
            final = found.slopes[network.graph.output]
        formed = record.formed(analysis, rows, final)
    refutation, places = record.refuted(formed.lower[0][:, None], range(rows.shape[1]), formed.planes[0])
    if len(places) < rows.shape[1]:
        return None
    return Certificate(
        network=plain.network.output,
        **area(region),
        rows=array(rows[0])[:, None],
        offsets=np.zeros((rows.shape[1], 1)),
        parts=(Part(tuple(steps), (refutation,)),),
        planes=record.planes,
        about=dict(about or {}),
    )
