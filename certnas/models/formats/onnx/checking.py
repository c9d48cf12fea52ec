"""Whether an imported network computes what onnxruntime computes from the same file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from certnas.errors import UserError
from certnas.faithful import gap, largest
from certnas.models.formats.onnx.network import OnnxNetwork

TOLERANCE = 1e-5
IMAGES = 2
DRAWN = ((0.0, 1.0), (0.0, 10.0), (10.0, 10.0), (-10.0, 10.0), (0.0, 1000.0))
"""Centre and width of the images that are drawn, one after the other."""


def check_against_onnxruntime(network: OnnxNetwork, model: onnx.ModelProto, what: str) -> float:
    """max |network(x) − onnxruntime(x)| / max(1, max |onnxruntime(x)|) over random images, of which half lie in [0, 1].

    Where one gives NaN, as a logarithm of negative numbers is, or an infinite value, the other must give the same;
    images are drawn from ever wider ranges until every output has been compared at a finite value.
    The file is run without graph optimisations, at its own batch size; one of an opset that onnxruntime does not know
    yet, by onnx's own reference evaluator.
    Raises UserError where the difference exceeds 10⁻⁵ or onnxruntime cannot run the file.
    """
    given = next(item for item in model.graph.input if item.name == network.input).type.tensor_type
    declared = given.shape.dim[0].dim_value if given.shape.dim[0].HasField("dim_value") else 1
    batch = 1 if network.whole else max(1, declared)
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.elem_type)
    difference, compared = 0.0, torch.tensor(False)
    for center, width in DRAWN:
        x = center + width * _images(max(IMAGES, batch) // batch * batch, network.input_shape)
        own, reference = _both(network, model, x, kind, batch, what)
        difference = max(difference, _agreed(own, reference, what))
        compared = compared | torch.isfinite(reference).any(0)
        if bool(compared.all()):
            return difference
    raise UserError(
        f"{what}: some of its outputs are NaN or infinite on all random images, so its import cannot be checked"
    )


def _images(count: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((count, *shape), generator=generator)
    x[1::2] = torch.randn((len(x[1::2]), *shape), generator=generator)
    return x


def _both(
    network: OnnxNetwork, model: onnx.ModelProto, x: Tensor, kind: Any, batch: int, what: str
) -> tuple[Tensor, Tensor]:
    """What the import and onnxruntime give on the same images."""
    try:
        reference = _run(model, network, x.numpy().astype(kind), batch)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{what}: onnxruntime cannot run it, so its import cannot be checked: {reason}"
        ) from error
    with torch.no_grad():
        try:
            own = network(x)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{what}: cannot be evaluated on {len(x)} images at once: {reason}") from error
    if own.shape != reference.shape:
        raise UserError(
            f"{what}: its import gives outputs {list(own.shape)}, onnxruntime {list(reference.shape)}"
        )
    return own, reference


def _run(model: onnx.ModelProto, network: OnnxNetwork, x: np.ndarray, batch: int) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        if "opset" not in str(error):
            raise
        session = ReferenceEvaluator(model)  # an opset newer than onnxruntime
    if network.whole:
        parts = [session.run([network.output], {network.input: one})[0][None] for one in x]
    else:
        parts = [
            session.run([network.output], {network.input: x[first : first + batch]})[0]
            for first in range(0, len(x), batch)
        ]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def _agreed(own: Tensor, reference: Tensor, what: str) -> float:
    found = gap(reference, own) / max(1.0, largest(reference))
    if not found <= TOLERANCE:
        raise UserError(
            f"{what}: its import and onnxruntime differ by {found:.1e} of the largest output on random images; "
            f"accepted: at most {TOLERANCE:g}, so it is not certified"
        )
    return found
