"""The network of a property: traced for bounds, and as it will be run."""

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
"""Trace and network are compared at so many boxes of a property, and at so many corners of each."""


@dataclass(frozen=True)
class Subject:
    """A network that is to be verified."""

    module: nn.Module
    """The network."""
    network: bounds.Network
    """The traced network in float64, for bounds."""
    replay: Replay | None
    """Runs the network as it will be deployed: inputs [n] float32 to outputs [m]; None for the traced network."""

    def check(self, prop: Property) -> None:
        """Compares module, trace and file at points of the property's boxes, if the numbers of inputs agree.

        Raises UserError, which names the node, if they differ.
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
    """Whether a network is stored as ONNX, by its file name."""
    return source.endswith((".onnx", ".onnx.gz"))


def open_onnx(path: Path, *, output: str | None = None, inputs: int | None = None) -> Subject:
    """Opens an ONNX file as it is stored, with inputs in its own layout; counterexamples are replayed in onnxruntime.

    output, inputs: the arguments of `import_onnx`.
    Raises UserError for a file that cannot be read, imported or reproduced.
    """
    import onnx  # imported here because both load slowly
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
    """The subject of any other network that certnas opens; X_i are its inputs in flattened order."""
    return Subject(model.module, network_of(model.module, model.input_shape), None)
