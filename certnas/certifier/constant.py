"""Certifies a network whose output does not depend on its input: only the box and eps-max limit a radius."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.certifier.batch import PROOF_MARGIN, CertificationRequest
from certnas.certifier.certificates import Certificates, targets
from certnas.certifier.prover import search_end
from certnas.certifier.request import check_logits, describe
from certnas.errors import UserError
from certnas.faithful import dtype_of, first_output, points_about

CONSTANT = "the network's output does not depend on its input: only the box and eps-max limit a radius"


def certify_constant(
    request: CertificationRequest, x: Tensor, y: Tensor, index: Sequence[int]
) -> Certificates:
    """Runs `certify` on one batch x [N, *shape], y [N] of a constant network.

    An image that is classified correctly with the required margin is certified up to the end of the search.
    Raises UserError if the model's scores differ between points, or cannot be certified.
    """
    started = perf_counter()
    norm = bounds.NORMS[request.norm]
    end = search_end(x, norm, request.clip, request.eps_max)
    logits = _scores(request, x)
    check_logits(logits, y, index)
    around = _scores(request, points_about(x, norm.p, end, request.clip).to(x))
    if not torch.equal(around, logits[:1].expand_as(around)):
        raise UserError(
            "the model's output does not depend on its input as it is traced, but differs between images; "
            "accepted: models that are a function of each image alone"
        )
    prediction = logits.argmax(1)
    target = None if request.target is None else request.target(logits, y, index, request.seed)
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    rival = others if target is None else logits.gather(1, target[:, None]).squeeze(1)
    right = prediction == y
    proved = right & (own - rival > PROOF_MARGIN * (1 + logits.abs().amax(1)))
    radius = torch.where(proved, end, 0.0)
    status = [
        "certified" if p else "zero" if r else "misclassified" for p, r in zip(proved, right, strict=True)
    ]
    upper = torch.where(right | (not request.attack), torch.inf, 0.0).double()
    return Certificates(
        norm=request.norm,
        method=request.name,
        proved_by=(describe(request.method),) * len(x),
        proof=("",) * len(x),
        index=np.asarray(index, dtype=np.int64),
        label=y.cpu().numpy().copy(),
        prediction=prediction.cpu().numpy().copy(),
        target=targets(target, len(x)),
        radius_lower=radius.cpu().numpy(),
        radius_upper=upper.cpu().numpy(),
        status=tuple(status),
        seconds=np.full(len(x), (perf_counter() - started) / len(x)),
        evaluations=np.zeros(len(x), dtype=np.int64),
        notes=(CONSTANT,),
    )


def _scores(request: CertificationRequest, x: Tensor) -> Tensor:
    """The model's first output at x [N, *shape], in float64."""
    with torch.no_grad():
        return first_output(request.model(x.to(dtype_of(request.model, x.dtype)))).double()
