"""Reading of torch.export archives. This module parses the archive, because torch.export.load runs code from it."""

from __future__ import annotations

import io
import pickle
import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.models.architectures import Architecture
from certnas.models.formats.archive import UNSAFE, checked_archive, checked_members
from certnas.models.formats.limits import LARGEST, check_limits
from certnas.models.formats.operation import Name, Operation
from certnas.models.formats.program import ProgramNetwork

SCHEMA = 8  # the schema version of torch 2.8 and later
_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_IGNORED = (
    "as_device",
    "as_layout",
    "as_memory_format",
)  # arguments for the storage of a tensor, not its values

_HARMLESS = ("user_output", "user_input_mutation")  # kinds of output that the next call does not read


def read_pt2(path: Path) -> Architecture:
    """The network in a .pt2 archive of torch 2.8 or later, restricted to allowed operators.

    Nothing in the archive is unpickled or executed. Weights must be plain tensors, operators must be in
    `program.TARGETS`, and sample inputs and other members are ignored. A fixed batch size becomes free.
    Raises UserError for any other archive.
    """
    if not checked_members(path):
        raise UserError(f"cannot read '{path}' as .pt2: it is truncated or in another format")
    with path.open("rb") as file:
        network = read_program(file, f"'{path}'")
    return Architecture(network, network.input_shape)


def read_program(file: IO[bytes], what: str, shape: tuple[int, ...] | None = None) -> ProgramNetwork:
    """The network in an open archive. `what` names it in messages; `shape` is the shape of images of free size."""
    try:
        network = _Archive(file, what).network(shape)
    except UserError as error:
        raise UserError(error if str(error).startswith(what) else f"{what}: {error}; {UNSAFE}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, RecursionError,
            zipfile.BadZipFile, EOFError, NotImplementedError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{what} is not an archive from torch.export of torch 2.8 or later ({type(error).__name__}: {reason})"
        ) from error
    check_limits(network, network.input_shape, what)
    _check_operators(network, what)
    _check_batch(network, what)
    return network


def run_pt2(path: Path, shape: tuple[int, ...] | None) -> Architecture:
    """The network that torch.export.load returns. This runs code that the archive may have."""
    try:
        program = torch.export.load(str(path))
        loaded = program.module()
        example = next(
            spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
        )
        node = next(node for node in program.graph.nodes if node.name == example)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torch.export cannot load '{path}': {reason}") from error
    return Architecture(Exported(loaded), tuple(int(size) for size in node.meta["val"].shape[1:]))


class Exported(nn.Module):
    """An exported module in evaluation mode, the mode of its export."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def train(self, mode: bool = True) -> Exported:
        """Set the mode of this module only, because an exported module refuses to change its mode."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class _Archive:
    """One archive: its graph, signature and plain tensors."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self.what = what
        self.zip = zipfile.ZipFile(file)
        self.members = {name.partition("/")[2]: name for name in self.zip.namelist()}
        models = [name for name in self.members if name.startswith("models/") and name.endswith(".json")]
        if len(models) != 1:
            raise UserError(
                f"{what} has {len(models)} models in the format of torch 2.8 and later; accepted: one"
            )
        self.model = models[0].removeprefix("models/").removesuffix(".json")
        self.program = parse_json(self._read(models[0]))
        version = self.program["schema_version"]["major"]
        if version != SCHEMA:
            raise UserError(
                f"{what} has schema version {version}; accepted: {SCHEMA}, of torch 2.8 and later"
            )

    def _read(self, name: str) -> bytes:
        if name not in self.members:
            raise UserError(f"{self.what} has no {name}")
        return self.zip.read(self.members[name])

    def network(self, images: tuple[int, ...] | None) -> ProgramNetwork:
        module = self.program["graph_module"]
        graph, signature = module["graph"], module["signature"]
        stored = {**self._stored("weights"), **self._stored("constants")}
        tensors: dict[str, Tensor] = {}
        parameters: dict[str, str] = {}
        inputs: list[str] = []
        for spec in signature["input_specs"]:
            ((kind, value),) = spec.items()
            if kind == "user_input":
                inputs.append(value["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                source = value.get(f"{kind}_name")
                tensors[value["arg"]["name"]] = stored[source]
                parameters[value["arg"]["name"]] = source
            else:
                raise UserError(f"an input of kind {str(kind)[:40]!r}; accepted: tensors")
        if len(inputs) != 1:
            raise UserError(f"{len(inputs)} inputs; accepted: one, the images")
        written = [kind for spec in signature["output_specs"] for kind in spec if kind not in _HARMLESS]
        if written:
            raise UserError(
                f"an output of kind {written[0][:40]!r}; accepted: scores of a network that leaves its buffers as they "
                "are"
            )
        output = next(
            spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec
        )
        batch, shape = self._input(graph["tensor_values"][inputs[0]], images)
        operations = [_operation(node) for node in graph["nodes"]]
        return ProgramNetwork(
            operations, tensors, parameters=parameters, input=inputs[0], output=output["as_tensor"]["name"],
            input_shape=shape, batch=batch,
        )  # fmt: skip

    def _input(
        self, meta: dict[str, Any], images: tuple[int, ...] | None
    ) -> tuple[int | None, tuple[int, ...]]:
        sizes = [size.get("as_int") for size in meta["sizes"]]
        shape = tuple(sizes[1:]) if images is None else images
        if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"its input has shape {sizes}; accepted: a batch and fixed sizes")
        if prod(shape) > LARGEST:
            raise UserError(f"its input has shape {sizes}; accepted: at most {LARGEST} elements")
        return sizes[0], shape

    def _stored(self, kind: str) -> dict[str, Tensor]:
        """The plain tensors in one folder of the archive, by their names in the module."""
        config = f"data/{kind}/{self.model}_{kind}_config.json"
        if config not in self.members:
            return self._pickled(kind)
        found = {}
        for name, entry in parse_json(self._read(config))["config"].items():
            path, meta = entry["path_name"], entry["tensor_meta"]
            plain = f"{'weight' if kind == 'weights' else 'tensor'}_"
            number = path.removeprefix(plain)
            if entry["use_pickle"] or meta is None or not path.startswith(plain) or not number.isdecimal():
                raise UserError(f"{kind} {name[:100]!r} is not a plain tensor: reading it would run code")
            found[name] = _tensor(self._read(f"data/{kind}/{path}"), meta, name)
        return found

    def _pickled(self, kind: str) -> dict[str, Tensor]:
        """The plain tensors in a torch.save file of the archive, torch 2.8's layout; torch reads it in
        weights-only mode.
        """
        name = f"data/{kind}/{self.model}.pt"
        if name not in self.members:
            return {}
        data = self._read(name)
        file = checked_archive(io.BytesIO(data), len(data), name)
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(f"{kind} in {name} are not plain tensors: reading them would run code") from error
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise UserError(f"{kind} in {name} are not plain tensors")
        return {str(key): value.detach() for key, value in found.items()}


def _tensor(data: bytes, meta: dict[str, Any], name: str) -> Tensor:
    """A tensor from its bytes. Raises UserError if its sizes and strides exceed them."""
    kind = _TYPES.get(meta["dtype"])
    sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    if kind is None or not all(isinstance(size, int) and size >= 0 for size in (*sizes, *strides, offset)):
        raise UserError(f"tensor {name[:100]!r} has an unknown type or shape")
    if prod(sizes) == 0:
        return torch.empty(sizes, dtype=kind)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if prod(sizes) > LARGEST or (last + 1) * kind.itemsize > len(data):
        raise UserError(f"tensor {name[:100]!r} of shape {sizes} does not fit the {len(data)} bytes it has")
    flat = torch.frombuffer(bytearray(data), dtype=kind, count=len(data) // kind.itemsize)
    return flat.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _operation(node: dict[str, Any]) -> Operation:
    target = node["target"].removeprefix("torch.ops.").replace("_operator.", "operator.")
    arguments = {}
    for position, item in enumerate(node["inputs"]):
        key = item["name"] or str(position)
        ((kind, value),) = item["arg"].items()
        if kind not in _IGNORED:
            arguments[key] = _argument(kind, value)
    outputs: list[str] = []
    for item in node["outputs"]:
        ((kind, value),) = item.items()
        if kind in ("as_tensor", "as_sym_int"):
            outputs.append(value["name"] if kind == "as_tensor" else value.get("as_name", ""))
        elif kind == "as_tensors":
            outputs += [tensor["name"] for tensor in value]
        else:
            outputs.append("")
    return Operation(target, arguments, tuple(outputs) or ("",))


def _argument(kind: str, value: Any) -> Any:
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Name(value["name"])
        case "as_tensors":
            return [Name(item["name"]) for item in value]
        case "as_optional_tensors":
            return [Name(item["as_tensor"]["name"]) if "as_tensor" in item else None for item in value]
        case "as_sym_int":
            return _size(value)
        case "as_sym_ints":
            return [_size(item) for item in value]
        case "as_float":
            return float(value)
        case "as_floats":
            return [float(item) for item in value]
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string":
            return value
        case "as_scalar_type":
            return _TYPES.get(value, torch.float32)
        case _:
            raise UserError(f"an argument of kind {kind[:40]!r}; accepted: tensors, numbers, text")


def _size(value: dict[str, Any]) -> Any:
    return Name(value["as_name"]) if "as_name" in value else value["as_int"]


def _check_operators(network: ProgramNetwork, what: str) -> None:
    """Raises UserError unless the network agrees with the archive's own operators and leaves its tensors unchanged."""
    x = torch.rand((2, *network.input_shape), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            network.compare(x, network(x.clone()))
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except Exception as error:
        raise UserError(f"{what} cannot be evaluated: {' '.join(str(error).split())[:200]}") from error


def _check_batch(network: ProgramNetwork, what: str) -> None:
    """Raises UserError unless a batch of free size gives the same outputs as batches of the exported size."""
    if network.batch is None:
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2 * network.batch, *network.input_shape), generator=generator)
    try:
        with torch.no_grad():
            together = network(x)
            apart = torch.cat([network(part) for part in x.split(network.batch)])
    except Exception as error:
        raise UserError(f"{what} cannot be evaluated: {' '.join(str(error).split())[:200]}") from error
    if together.shape != apart.shape or not torch.allclose(together, apart, rtol=1e-4, atol=1e-5):
        raise UserError(
            f"{what} mixes the images of its fixed batch of {network.batch}; export it with a free batch"
        )
