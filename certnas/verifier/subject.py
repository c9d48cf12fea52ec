"""The network that a property speaks of: traced for the bounds, and as it will be run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import nn

from certnas import bounds
from certnas.errors import UserError
from certnas.faithful import Faithful, points_within
from certnas.models import OpenedModel
from certnas.verifier.attack import Replay
from certnas.verifier.property import Property
from certnas.verifier.verification import network_of

BOXES, CORNERS = 4, 2
"""Of a property, at how many of its boxes the network is tried, and at how many corners of each."""


@dataclass(frozen=True)
class Subject:
    """module: the network; network: the same in float64, for bounds; replay: inputs [n] float32 to outputs [m], None
    for the network in float64."""

    module: nn.Module
    network: bounds.Network
    replay: Replay | None

    def check(self, prop: Property) -> None:
        """Compares module, trace and file at points of the property's boxes, where these are of the network's inputs.

        Raises UserError, which names the node, where they differ.
        """
        shape = self.network.graph.input_shape
        boxes = list(dict.fromkeys(clause.box for clause in prop.clauses))
        if not boxes or prop.inputs != prod(shape):
            return
        chosen = boxes[:: -(-len(boxes) // BOXES)]
        sides = [[torch.from_numpy(side).double().reshape(shape) for side in box.inside] for box in chosen]
        self._faithful.check(torch.cat([points_within(low, high, CORNERS) for low, high in sides]))

    @cached_property
    def _faithful(self) -> Faithful:
        return Faithful(self.module, self.network.graph)


def is_onnx(source: str) -> bool:
    """Whether a network is stored as ONNX."""
    return source.endswith((".onnx", ".onnx.gz"))


def open_onnx(path: Path, *, output: str | None = None, inputs: int | None = None) -> Subject:
    """An ONNX file exactly as it is stored, its inputs in its own layout; counterexamples run in onnxruntime.

    output, inputs: as `import_onnx` takes them.  Raises UserError for what cannot be read, followed or reproduced.
    """
    import onnx  # here: both load slowly
    import onnxruntime

    from certnas.models.formats.onnx import import_onnx
    from certnas.models.formats.onnx.reading import read_model, with_output, without_unread

    try:
        module, model = import_onnx(path, output=output, inputs=inputs).eval(), read_model(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from error
    with_output(model, module.output, f"'{path}'")
    without_unread(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = next(item for item in model.graph.input if item.name == module.input).type.tensor_type
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.elem_type)
    batch = max(1, given.shape.dim[0].dim_value)

    def replay(inputs: np.ndarray) -> np.ndarray:
        x = inputs.reshape(module.input_shape).astype(kind)
        if not module.whole:
            x = np.repeat(x[None], batch, 0)
        (outputs,) = session.run([module.output], {module.input: x})
        return np.asarray(outputs if module.whole else outputs[0], dtype=np.float64).flatten()

    return Subject(module, network_of(module, module.input_shape), replay)


def of_opened(model: OpenedModel) -> Subject:
    """Any other network that certnas opens; X_i are its input images in their flattened order."""
    return Subject(model.module, network_of(model.module, model.input_shape), None)
