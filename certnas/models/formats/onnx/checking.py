"""Comparison of an imported network with onnxruntime on the same file."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
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
"""(centre, width) of the ranges of random images, in the order of their use."""
COMPARED = 64
"""Number of images for which the values of all nodes are held at a time."""


class StoredFile:
    """A model as stored in its file, which onnxruntime runs for comparison with the import.

    It runs without graph optimisations, in its own floating type and batch size. If onnxruntime does not
    support its opset yet, onnx's reference evaluator runs it. `what` names the file in messages.
    """

    def __init__(self, network: OnnxNetwork, model: onnx.ModelProto, what: str) -> None:
        given = next(item for item in model.graph.input if item.name == network.input).type.tensor_type
        declared = given.shape.dim[0].dim_value if given.shape.dim[0].HasField("dim_value") else 1
        self.batch = 1 if network.whole else max(1, declared)
        self.kind = onnx.helper.tensor_dtype_to_np_dtype(given.elem_type)
        self.data, self.what, self.weights = model.SerializeToString(), what, _digest(network)
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # onnxruntime's sessions cannot be copied

    def check(self, network: OnnxNetwork) -> None:
        """Compare both at random images; half of the images lie in [0, 1].

        If one gives NaN (such as the logarithm of a negative number) or an infinite value, the other must
        give the same. Images come from increasingly wide ranges until every output was compared at a finite
        value. Raises UserError if max |network(x) − onnxruntime(x)| / max(1, max |onnxruntime(x)|) exceeds
        10⁻⁵, or if onnxruntime cannot run the file.
        """
        compared = torch.tensor(False)
        for center, width in DRAWN:
            x = center + width * _images(
                max(IMAGES, self.batch) // self.batch * self.batch, network.input_shape
            )
            reference = self._reference(network, x)
            with torch.no_grad():
                try:
                    own = network(x)
                except Exception as error:
                    reason = " ".join(str(error).split())[:200]
                    raise UserError(
                        f"{self.what}: cannot be evaluated on {len(x)} images at once: {reason}"
                    ) from error
            self._agree(network, x, own, reference, "random images")
            compared = compared | torch.isfinite(reference).any(0)
            if bool(compared.all()):
                return
        raise UserError(
            f"{self.what}: some of its outputs are NaN or infinite on all random images, so its import cannot be "
            "checked"
        )

    def compare(self, network: OnnxNetwork, x: Tensor, y: Tensor) -> None:
        """Compare y [N, *output], the import's output at x [N, *input_shape], by the same measure.

        If the weights changed since the import, it is another network than the file's, and nothing is
        compared.
        """
        if _digest(network) == self.weights:
            reference = self._reference(network, x)
            self._agree(network, x, y.to(reference), reference, "the inputs that are asked about")

    def _reference(self, network: OnnxNetwork, x: Tensor) -> Tensor:
        """The file's output. x [N, *input_shape] -> [N, *output] float32"""
        try:
            if self._session is None:
                self._session = _session(self.data)
            return self._run(self._session, network, x, [network.output])[0]
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.what}: onnxruntime cannot run it, so its import cannot be checked: {reason}"
            ) from error

    def _run(self, session: Any, network: OnnxNetwork, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The values with these names, in float32, image by image in dimension 0."""
        given = x.numpy().astype(self.kind)
        if network.whole:
            parts = [[y[None] for y in session.run(names, {network.input: one})] for one in given]
        else:
            missing = -len(given) % self.batch  # to fill the last batch
            filled = np.concatenate([given, np.repeat(given[-1:], missing, 0)])
            parts = [
                session.run(names, {network.input: filled[first : first + self.batch]})
                for first in range(0, len(filled), self.batch)
            ]
        joined = (np.concatenate(values) for values in zip(*parts, strict=True))
        return [torch.from_numpy(value.astype(np.float32))[: len(given)] for value in joined]

    def _agree(self, network: OnnxNetwork, x: Tensor, own: Tensor, reference: Tensor, where: str) -> None:
        if own.shape != reference.shape:
            raise UserError(
                f"{self.what}: its import gives outputs {list(own.shape)}, onnxruntime {list(reference.shape)}"
            )
        found = _apart(own, reference)
        if not found <= TOLERANCE:
            raise UserError(
                f"{self.what}: its import and onnxruntime differ by {found:.1e} of the largest output on {where}; "
                f"accepted: at most {TOLERANCE:g}, so it is not certified; {self._node(network, x)}"
            )

    def _node(self, network: OnnxNetwork, x: Tensor) -> str:
        """A description of the first node whose value differs."""
        model = onnx.ModelProto.FromString(self.data)
        there = {name for node in model.graph.node for name in node.output}
        names = [name for wiring, _ in network.wirings for name in wiring.outputs if name in there]
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n != network.output)
        try:
            session = _session(model.SerializeToString())
            for part in x.split(COMPARED):
                known = dict(zip(names, self._run(session, network, part, names), strict=True))
                with torch.no_grad():
                    for wiring, values in network.steps(part):
                        for name in wiring.outputs:
                            own, reference = values[name].float(), known.get(name)
                            if reference is None or own.shape != reference.shape:
                                continue
                            if not _apart(own, reference) <= TOLERANCE:
                                return f"it first differs at {wiring.where}"
        except Exception as error:
            reason = " ".join(str(error).split())[:100]
            return f"the node cannot be named: onnxruntime does not show the values of all nodes: {reason}"
        return "the node cannot be named: the values of all nodes that both show agree"


def _images(count: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((count, *shape), generator=generator)
    x[1::2] = torch.randn((len(x[1::2]), *shape), generator=generator)
    return x


def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "opset" not in str(error):
            raise
        return ReferenceEvaluator(onnx.ModelProto.FromString(data))  # an opset newer than onnxruntime


def _digest(network: OnnxNetwork) -> bytes:
    """A digest of an import's weights, independent of their floating type and device."""
    found = sha256()
    for weight in network.parameters():
        found.update(weight.detach().cpu().double().numpy().tobytes())
    return found.digest()


def _apart(own: Tensor, reference: Tensor) -> float:
    return gap(reference, own) / max(1.0, largest(reference))
