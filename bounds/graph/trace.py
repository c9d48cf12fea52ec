"""From an `nn.Module` to a `Graph`, through torch.export, without decomposition."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from math import isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import BoundsError, ConstantOutput, InvalidInput, UnsupportedOp
from ..operators import RULES
from . import Graph, Node, Ref
from .canonical import LIKE, PRODUCTS, SPLITS, SYNONYMS, compose, fill_of, keeps_numbers, narrows
from .functionalise import functional, mutable, out_of_place, without_modes
from .purity import SHAPES, SWITCHES, UNWRITTEN, moves_images, random

aten = torch.ops.aten

_ALIKE = {aten.zeros.default, aten.ones.default, aten.full.default, aten.expand.default, aten.repeat.default}
_ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}


def trace(model: nn.Module, example: Tensor) -> Graph:
    """Read the network's structure once; its batch dimension stays free.

    example [n, C, H, W] (any input shape, first dimension the batch; values do not matter).  A model that returns a
    tuple, such as (logits, auxiliary), is traced for the first.  Evaluation mode is expected; in training mode
    batch normalisation keeps its batch statistics (see `Graph.bind`).  What is written in place is seen by every
    later read, and casts between floating-point types are the identity.
    Raises InvalidInput if the model cannot be exported or is no function of its input, ConstantOutput if its output
    does not depend on the input, UnsupportedOp if it does something no rule can follow: draws numbers, mixes images,
    computes with the batch's size.
    """
    program = program_of(model, example)
    tensors: dict[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    graph = _Reader(program, tensors, tuple(example.shape[1:])).graph()
    return replace(graph, owner=model, owned=frozenset(tensors) & frozenset(graph.defaults))


def program_of(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """What `trace` reads: the model's operators in order, none of which changes what another reads.

    Raises InvalidInput if the model cannot be exported with a free batch.
    """
    example = example.detach()
    if len(example) < 2:
        example = torch.cat([example, example])
    dynamic: Any = ({0: torch.export.Dim.DYNAMIC},)
    if next(iter(signature(model.forward).parameters.values())).kind is Parameter.VAR_POSITIONAL:
        dynamic = (dynamic,)  # a wrapper's forward(*inputs), as compiled and parallel modules have
    with _as_it_is(model):
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            raise InvalidInput(
                f"trace: torch.export cannot read the model with input {list(example.shape)} and a free batch: "
                f"{_first_line(error)}"
            ) from error
        try:
            without_modes(program)
            compose(program)
            program = functional(program)
        except BoundsError:
            raise
        except Exception as error:
            raise InvalidInput(
                "trace: torch cannot say what the model's in-place operators do, use the out-of-place forms: "
                f"{_first_line(error)}"
            ) from error
    return program


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    """Without gradients, which forbid some writes to views; without the fused attention that torch then takes."""
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode


class _Reader:
    """Walks a functional program once, along what the output needs: statistics and auxiliary heads fall away."""

    def __init__(self, program: Any, tensors: dict[str, Tensor], input_shape: tuple[int, ...]) -> None:
        self.program = program
        self.tensors = tensors
        self.input_shape = input_shape
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, Node] = {}
        self.parameters: dict[str, str] = {}
        self.defaults: dict[str, Tensor] = {}
        self.batch_sizes: list[str] = []
        self.alias: dict[str, str] = {}
        self.pieces: dict[tuple[str, int], str] = {}
        self.same: dict[tuple[Any, str], str] = {}
        self.values: dict[str, Any] = {}
        self.numbers: set[str] = set()
        self.rows: set[str] = set()
        self.input = ""
        self.batch: Any = None

    def graph(self) -> Graph:
        nodes = self.program.graph.nodes
        last = self._output()
        needed = _needed(last)
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node, node in needed)
            elif node not in needed:
                continue
            elif node.op == "call_function":
                self._call(node)
            else:
                raise UnsupportedOp(f"trace: graph node {node.op} '{node.name}' is not an operator call")
        output = self._name(last)
        if output != self.input and output not in self.nodes:
            raise ConstantOutput("trace: the model's output does not depend on its input")
        self._keep(output)
        return Graph(
            input=self.input, output=output, input_shape=self.input_shape, nodes=self.nodes,
            constants=tuple(self.constants.values()), parameters=self.parameters,
            defaults={name: self.defaults[name] for name in self.parameters.values()},
            batch_sizes=tuple(self.batch_sizes),
        )  # fmt: skip

    # What the program takes and gives

    def _output(self) -> fx.Node:
        """The network's output: the first tensor returned that belongs to the model (mutated buffers come before)."""
        (node,) = (node for node in self.program.graph.nodes if node.op == "output")
        specs = self.program.graph_signature.output_specs
        kinds = [spec.kind.name for spec in specs]
        if "USER_INPUT_MUTATION" in kinds:
            raise InvalidInput("trace: the model changes its input in place; let it change a copy, x.clone()")
        value = node.args[0][kinds.index("USER_OUTPUT")] if "USER_OUTPUT" in kinds else None
        if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), Tensor):
            raise InvalidInput("trace: the model returns no tensor")
        return value

    def _placeholder(self, node: fx.Node, needed: bool) -> None:
        signature = self.program.graph_signature
        source = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
        lifted = signature.inputs_to_lifted_tensor_constants.get(node.name)
        if not isinstance(node.meta["val"], Tensor):
            if needed:
                raise UnsupportedOp(
                    f"trace: the output depends on '{node.name}', which is no tensor; a network reads its input, "
                    "parameters and buffers alone, and draws no numbers"
                )
            return
        if source is None and lifted is None:
            self.input = node.name
            self.batch = node.meta["val"].shape[0]
            self._refuse_chosen_sizes()
        elif needed:
            name = source or lifted
            self.parameters[node.name] = name
            self.defaults[name] = self.tensors[name] if name in self.tensors else self.program.constants[name]
            if isinstance(self.defaults[name], FakeTensor):
                raise InvalidInput(
                    "trace: the model keeps a tensor that it computed outside of its parameters and buffers, and reads "
                    "it at the next call: it is no function of its input"
                )
            self._refuse_changed(name)
        self.values[node.name] = node.meta["val"]

    def _refuse_changed(self, name: str) -> None:
        """Raises InvalidInput where forward changes a tensor that the output depends on: each call gives another."""
        signature = self.program.graph_signature
        changed = {
            spec.target
            for spec in signature.output_specs
            if spec.kind.name.endswith("_MUTATION") and spec.target
        }
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and any(
                mutable(user.target) and user.args[:1] == (node,) for user in node.users
            ):
                changed.add(signature.inputs_to_buffers.get(node.name, ""))
        memory = self.defaults[name].untyped_storage().data_ptr()
        for other in changed:
            if other in self.tensors and self.tensors[other].untyped_storage().data_ptr() == memory:
                raise InvalidInput(
                    f"trace: the output depends on '{name}', which every call of the model changes: it is no function "
                    "of its input"
                )

    def _keep(self, output: str) -> None:
        """Drops what the output does not need: the pieces of a split that nobody reads, numbers of other branches."""
        wanted = {output}
        for node in reversed([*self.constants.values(), *self.nodes.values()]):
            if node.name in wanted:
                wanted.update(ref.name for ref in _refs(node.arguments))
        self.parameters = {k: v for k, v in self.parameters.items() if k in wanted}
        self.nodes = {k: v for k, v in self.nodes.items() if k in wanted}
        self.constants = {k: v for k, v in self.constants.items() if k in wanted}
        self.batch_sizes = [name for name in self.batch_sizes if name in wanted]

    # Calls

    def _name(self, node: fx.Node) -> str:
        name = node.name
        while name in self.alias:
            name = self.alias[name]
        return name

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return Ref(self._name(value))
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        return value

    def _bound(self, node: fx.Node, target: Any) -> dict[str, Any]:
        """The arguments of a call of `target` by their schema names, defaults filled in."""
        if not isinstance(target, torch._ops.OpOverload):
            return {str(i): self._argument(value) for i, value in enumerate(node.args)}
        schema = target._schema.arguments
        named = {argument.name: argument.default_value for argument in schema}
        named.update(
            {argument.name: self._argument(v) for argument, v in zip(schema, node.args, strict=False)}
        )
        named.update({key: self._argument(value) for key, value in node.kwargs.items()})
        return named

    def _perturbed(self, ref: Any) -> bool:
        return isinstance(ref, Ref) and (ref.name == self.input or ref.name in self.nodes)

    def _call(self, node: fx.Node) -> None:
        value: Any = node.meta.get("val")
        self.values[node.name] = value
        if node.target is operator.getitem and self._piece(node):
            return
        target: Any = out_of_place(node.target) if mutable(node.target) else node.target
        target = SYNONYMS.get(target, target)
        arguments = self._bound(node, target)
        if target is aten.squeeze.default:
            target, arguments = self._squeezed(arguments)
        call = _Call(node.name, target, arguments, value, _module(node))
        self._refuse_chance(call)
        self._refuse_nan(call)
        if target in LIKE and self._perturbed(arguments["other"]):
            call = self._shaped(call)
            target, arguments = call.target, call.arguments
        operands = tuple(ref.name for ref in _refs(arguments) if self._perturbed(ref))
        if not operands or (target is aten.sym_size.int and arguments["dim"] == 0):
            self._constant(call)
            return
        self._refuse_sizes(call)
        if narrows(target, value) and value.is_floating_point():
            raise UnsupportedOp(
                f"trace: {call.where()} casts to {value.dtype}, which rounds, and makes infinity of large numbers; "
                "accepted: casts to float32 and float64"
            )
        if keeps_numbers(target, value) and self._perturbed(arguments["self"]):
            self.alias[node.name] = arguments["self"].name
            return
        fill = fill_of(target, arguments)
        if fill is not None and not (target in PRODUCTS and self._partial(operands)):
            self._filled(call, fill)
            return
        twin = self.same.setdefault((target, repr(arguments)), node.name)
        if twin != node.name:
            self.alias[node.name] = twin  # the same operator on the same tensors: one node, one relaxation
        elif target in SPLITS:
            for i, (one, given) in enumerate(SPLITS[target](arguments, value)):
                name = f"{node.name}.{i}"  # no exported name has a dot
                self._add(_Call(name, one, given, value[i], call.module))
                self.pieces[(node.name, i)] = name
        else:
            self._add(call)

    def _piece(self, node: fx.Node) -> bool:
        """Whether a getitem takes an output of an operator that was read as several."""
        whole, index = self._name(node.args[0]), node.args[1]  # type: ignore[arg-type]
        if (whole, 0) not in self.pieces:
            return False
        if (whole, index) not in self.pieces:
            raise UnsupportedOp(
                f"trace: '{node.name}' reads output {index} of '{whole}', which has no bounds"
            )
        self.alias[node.name] = self.pieces[(whole, index)]  # type: ignore[index]
        return True

    def _constant(self, call: _Call) -> None:
        """A value that no pixel decides.  What the batch's size decides is a length, or the same row for each image."""
        refs = _refs(call.arguments)
        sized = any(ref.name in self.numbers for ref in refs)
        rows = any(ref.name in self.rows for ref in refs)
        if any(self._perturbed(ref) for ref in refs):
            self.batch_sizes.append(call.name)
            self.numbers.add(call.name)
            return
        if not isinstance(call.value, (Tensor, list, tuple)):
            self.numbers |= {call.name} if sized or rows else set()
        elif sized or rows or _free(call.value):
            self._refuse_sizes(call)
            known = (
                call.target in RULES
                or call.target in SPLITS
                or fill_of(call.target, call.arguments) is not None
            )
            alike = known or call.target is operator.getitem if rows else call.target in _ALIKE
            if not alike or not self._apart(call):
                raise UnsupportedOp(
                    f"trace: {call.where()} depends on the size of the batch; images must not depend on their number"
                )
            self.rows.add(call.name)
        self.constants[call.name] = Node(call.name, call.target, call.arguments, (), (), call.module)

    def _filled(self, call: _Call, fill: float) -> None:
        """A tensor of one value, of which only the shape depends on the input: x·0 is one whatever x's bounds."""
        size = self._size(call)
        if call.value.shape and isinstance(size[0], Ref):
            self.rows.add(call.name)
        dtype = torch.float32 if call.value.is_floating_point() else call.value.dtype
        arguments = {"size": size, "fill_value": fill, "dtype": dtype, "device": torch.device("cpu")}
        self.constants[call.name] = Node(call.name, aten.full.default, arguments, (), (), call.module)

    def _squeezed(self, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A squeeze of all that has one element, which it is as the batch of one image is not: that is compared."""
        whole = self.values[arguments["self"].name].shape
        dims = [dim for dim, size in enumerate(whole) if not isinstance(size, torch.SymInt) and size == 1]
        return aten.squeeze.dims, {"self": arguments["self"], "dim": dims}

    def _shaped(self, call: _Call) -> _Call:
        """The same with the shape written out, where a tensor that depends on the input gives its shape alone."""
        target, name = LIKE[call.target]
        arguments: dict[str, Any] = {"self": call.arguments["self"], name: self._size(call)}
        if self._perturbed(arguments["self"]):
            arguments[name] = [-1, *arguments[name][1:]]
        if target is aten.expand.default:
            arguments["implicit"] = False
        return call._replace(target=target, arguments=arguments)

    def _size(self, call: _Call) -> list[Any]:
        """The shape of a call's value, its batch left free."""
        size: list[Any] = list(call.value.shape)
        if self._keeps_batch(call.value):
            if "batch" not in self.batch_sizes:
                self.batch_sizes.append("batch")
                self.numbers.add("batch")
            size[0] = Ref("batch")
        elif _free(call.value):
            raise UnsupportedOp(f"trace: {call.where()} moves the batch dimension ({size})")
        return size

    def _add(self, call: _Call) -> None:
        """A node that depends on the input; division and squares are read as what has a rule."""
        name, target, arguments, value, module = call
        if not isinstance(value, Tensor):
            raise UnsupportedOp(f"trace: {call.where()} does not return one tensor")
        if not self._apart(call):
            raise UnsupportedOp(
                f"trace: {call.where()} moves or mixes the batch dimension (output {list(value.shape)}); images must "
                "stay apart in dimension 0"
            )
        if not value.is_floating_point():
            raise UnsupportedOp(f"trace: {call.where()} leaves floating point ({value.dtype})")
        self.values[name] = value
        if target in _ARITHMETIC:
            arguments = {key: self._as_float(item, module) for key, item in arguments.items()}
        operands = tuple(ref.name for ref in _refs(arguments) if self._perturbed(ref))
        if target is aten.div.Tensor and Ref(operands[-1]) == arguments["other"]:
            inverse = f"{name}.reciprocal"
            divisor_shape = tuple(self._shape(operands[-1]))
            self.nodes[inverse] = Node(
                inverse, aten.reciprocal.default, {"self": arguments["other"]}, (operands[-1],), divisor_shape, module
            )  # fmt: skip
            target, arguments = aten.mul.Tensor, {"self": arguments["self"], "other": Ref(inverse)}
            above = arguments["self"]
            operands = (
                (above.name, inverse) if isinstance(above, Ref) and above.name in operands else (inverse,)
            )
        if target is aten.mul.Tensor and arguments["self"] == arguments["other"]:
            target, arguments, operands = aten.square.default, {"self": arguments["self"]}, operands[:1]
        if target is aten.pow.Tensor_Scalar and arguments["exponent"] == 2:
            target, arguments = aten.square.default, {"self": arguments["self"]}
        shape = tuple(int(size) for size in value.shape[1:])
        self.nodes[name] = Node(name, target, arguments, operands, shape, module)

    def _as_float(self, item: Any, module: str) -> Any:
        """A constant of numbers, for a mask of booleans or integers that meets what has bounds."""
        value = self.values.get(item.name) if isinstance(item, Ref) else None
        if not isinstance(value, Tensor) or value.is_floating_point():
            return item
        name = f"{item.name}.float"
        arguments = {"self": item, "dtype": torch.float32}
        self.constants[name] = Node(name, aten._to_copy.default, arguments, (), (), module)
        return Ref(name)

    def _partial(self, names: tuple[str, ...]) -> bool:
        """Whether tensors are computed from an operator that is not defined everywhere: 0 times NaN is NaN."""
        stack, seen = list(names), set(names)
        while stack:
            node = self.nodes.get(stack.pop())
            if node is None:
                continue
            if getattr(RULES.get(node.target), "domain", None) is not None:
                return True
            stack += set(node.operands) - seen
            seen.update(node.operands)
        return False

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.input_shape if name == self.input else self.nodes[name].shape

    # No function of one image

    def _refuse_chosen_sizes(self) -> None:
        """Raises UnsupportedOp where what was read is the network for some sizes of the batch only."""
        if not isinstance(self.batch, torch.SymInt):
            raise UnsupportedOp("trace: the model fixes the size of its batch; it must be free")
        sizes: Any = self.batch.node.shape_env
        for guard in sizes.guards:
            condition = str(guard.expr).replace(str(self.batch), "N")
            raise UnsupportedOp(
                f"trace: the model computes otherwise for other sizes N of the batch (read where {condition}); images "
                "must not depend on their number"
            )

    def _refuse_chance(self, call: _Call) -> None:
        if random(call.target, call.arguments):
            switched = any(key in call.arguments for key in SWITCHES)
            what = (
                "is random in training mode; call model.eval() before trace"
                if switched
                else ("draws random numbers, so the model is no function of its input")
            )
            raise UnsupportedOp(f"trace: {call.where()} {what}")
        if call.target in UNWRITTEN:
            raise UnsupportedOp(
                f"trace: {call.where()} is memory that nothing has written to when it is read"
            )

    def _refuse_nan(self, call: _Call) -> None:
        for key, value in call.arguments.items():
            if isinstance(value, float) and isnan(value):
                raise UnsupportedOp(f"trace: {call.where()} takes NaN for {key}; accepted: a number")
        read = self.values.get(call.arguments["self"].name) if call.target is aten.mean.dim else None
        if isinstance(read, Tensor) and any(size == 0 for size in read.shape[1:]):
            raise UnsupportedOp(f"trace: {call.where()} is the mean of no numbers, which is NaN")

    def _refuse_sizes(self, call: _Call) -> None:
        """Raises UnsupportedOp where the size of the batch is more than a length."""
        for key, value in call.arguments.items():
            if key not in SHAPES and any(ref.name in self.numbers for ref in _refs(value)):
                raise UnsupportedOp(
                    f"trace: {call.where()} computes with the size of the batch ({key}); images must not depend on "
                    "their number"
                )

    def _apart(self, call: _Call) -> bool:
        """Whether every image's part of a call's value is made of that image alone."""
        values = call.value if isinstance(call.value, (list, tuple)) else [call.value]
        if not all(isinstance(value, Tensor) and self._keeps_batch(value) for value in values):
            return False
        ranks = [v.dim() for v in map(self.values.get, _names(call)) if isinstance(v, Tensor)]
        return not moves_images(call.target, call.arguments, ranks[0] if ranks else values[0].dim())

    def _keeps_batch(self, value: Tensor) -> bool:
        """Whether the batch is dimension 0 and only there; sizes are compared as symbols, not by the example's."""
        free = [isinstance(size, torch.SymInt) for size in value.shape]
        return bool(free) and free[0] and not any(free[1:]) and str(value.shape[0]) == str(self.batch)


class _Call(NamedTuple):
    """One operator call as it is read; `value` is a tensor of its shape and dtype without numbers."""

    name: str
    target: Any
    arguments: dict[str, Any]
    value: Any
    module: str

    def where(self) -> str:
        return f"{self.target} at '{self.name}'{f', in {self.module}' if self.module else ''}"


def _needed(last: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    found, stack = {last}, [last]
    while stack:
        above = [node for node in stack.pop().all_input_nodes if node not in found]
        found.update(above)
        stack += above
    return found


def _free(value: Any) -> bool:
    """Whether any length of a tensor, or of several, depends on the batch's size."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(size, torch.SymInt) for v in values for size in getattr(v, "shape", ()))


def _names(call: _Call) -> list[str]:
    return [ref.name for ref in _refs(call.arguments)]


def _refs(value: Any) -> list[Ref]:
    """Every `Ref` in an argument structure, in order, each once."""
    found: dict[str, Ref] = {}
    stack = [value]
    while stack:
        item = stack.pop(0)
        if isinstance(item, Ref):
            found.setdefault(item.name, item)
        elif isinstance(item, dict):
            stack[:0] = list(item.values())
        elif isinstance(item, (list, tuple)):
            stack[:0] = list(item)
    return list(found.values())


def _module(node: fx.Node) -> str:
    """The path of the user's module that made the call, e.g. 'cells.2.ops.1'."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_")]
    return paths[-1] if paths else ""
