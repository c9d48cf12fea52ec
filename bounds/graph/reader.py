"""Reads an exported program as a `Graph`: it decides which nodes there are, and which values are constant."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import ConstantOutput, InvalidInput, UnsupportedOp
from ..operators import RULES, Nonlinear
from . import Graph, Node, Ref
from .canonical import LIKE, PRODUCTS, SPLITS, SYNONYMS, fill_of, keeps_numbers, narrows
from .exported import ExportedCall, ancestors, has_free_size, module_of, names_of, refs_of
from .functionalise import mutable, out_of_place
from .node import upstream
from .purity import moves_images, refuse_batch_arithmetic, refuse_batch_guards, refuse_chance, refuse_nan

aten = torch.ops.aten

_EQUAL_ROWS = {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.expand.default,
    aten.repeat.default,
}
"""Operators that fill or repeat: without perturbed arguments, they give the same row for every image."""
_ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}


class ProgramReader:
    """Reads a functional program once, along the nodes that the output needs."""

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
        self.outputs: dict[tuple[str, int], str] = {}
        self.first_calls: dict[tuple[Any, str], str] = {}
        self.values: dict[str, Any] = {}
        self.batch_scalars: set[str] = set()
        self.repeated_rows: set[str] = set()
        self.input = ""
        self.batch: Any = None

    def graph(self) -> Graph:
        """Return the graph.  Raises as `trace` does."""
        nodes = self.program.graph.nodes
        last = self._output()
        needed = ancestors(last)
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node, node in needed)
            elif node not in needed:
                continue
            elif node.op == "call_function":
                self._read_call(node)
            else:
                raise UnsupportedOp(f"trace: graph node {node.op} '{node.name}' is not an operator call")
        output = self._name(last)
        if output != self.input and output not in self.nodes:
            raise ConstantOutput("trace: the model's output does not depend on its input")
        self._drop_unused(output)
        return Graph(
            input=self.input, output=output, input_shape=self.input_shape, nodes=self.nodes,
            constants=tuple(self.constants.values()), parameters=self.parameters,
            defaults={name: self.defaults[name] for name in self.parameters.values()},
            batch_sizes=tuple(self.batch_sizes),
        )  # fmt: skip

    # Inputs and outputs of the program

    def _output(self) -> fx.Node:
        """Return the network's output: the first tensor that the model itself returns.

        The program returns the buffers that the model changes before it.
        """
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
            refuse_batch_guards(self.batch)
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
        """Raise InvalidInput if the model changes a tensor that its output depends on, so that every call differs."""
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

    def _drop_unused(self, output: str) -> None:
        """Drop the nodes that the output does not need, such as pieces of a split that nothing reads."""
        wanted = {output}
        for node in reversed([*self.constants.values(), *self.nodes.values()]):
            if node.name in wanted:
                wanted.update(ref.name for ref in refs_of(node.arguments))
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

    def _named_arguments(self, node: fx.Node, target: Any) -> dict[str, Any]:
        """Return the arguments of a call of `target` by their schema names, defaults filled in."""
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

    def _read_call(self, node: fx.Node) -> None:
        value: Any = node.meta.get("val")
        self.values[node.name] = value
        if node.target is operator.getitem and self._read_output(node):
            return
        target: Any = out_of_place(node.target) if mutable(node.target) else node.target
        target = SYNONYMS.get(target, target)
        arguments = self._named_arguments(node, target)
        if target is aten.squeeze.default:
            target, arguments = self._with_squeezed_axes(arguments)
        call = ExportedCall(node.name, target, arguments, value, module_of(node))
        refuse_chance(call)
        refuse_nan(call, self.values)
        if target in LIKE and self._perturbed(arguments["other"]):
            call = self._with_literal_shape(call)
            target, arguments = call.target, call.arguments
        operands = tuple(ref.name for ref in refs_of(arguments) if self._perturbed(ref))
        if not operands or (target is aten.sym_size.int and arguments["dim"] == 0):
            self._add_constant(call)
            return
        refuse_batch_arithmetic(call, self.batch_scalars)
        if narrows(target, value) and value.is_floating_point():
            raise UnsupportedOp(
                f"trace: {call.where()} casts to {value.dtype}, which rounds, and makes infinity of large numbers; "
                "accepted: casts to float32 and float64"
            )
        if keeps_numbers(target, value) and self._perturbed(arguments["self"]):
            self.alias[node.name] = arguments["self"].name
            return
        fill = fill_of(target, arguments)
        if fill is not None and not (target in PRODUCTS and self._may_be_undefined(operands)):
            self._add_filled(call, fill)
            return
        first = self.first_calls.setdefault((target, repr(arguments)), node.name)
        if first != node.name:
            self.alias[node.name] = (
                first  # the same operator on the same tensors is one node with one relaxation
            )
        elif target in SPLITS:
            for i, (one, given) in enumerate(SPLITS[target](arguments, value)):
                name = f"{node.name}.{i}"  # no exported name has a dot
                self._add_node(ExportedCall(name, one, given, value[i], call.module))
                self.outputs[(node.name, i)] = name
        else:
            self._add_node(call)

    def _read_output(self, node: fx.Node) -> bool:
        """Return whether a getitem reads an output of an operator that was split into several."""
        whole, index = self._name(node.args[0]), node.args[1]  # type: ignore[arg-type]
        if (whole, 0) not in self.outputs:
            return False
        if (whole, index) not in self.outputs:
            raise UnsupportedOp(
                f"trace: '{node.name}' reads output {index} of '{whole}', which has no bounds"
            )
        self.alias[node.name] = self.outputs[(whole, index)]  # type: ignore[index]
        return True

    def _add_constant(self, call: ExportedCall) -> None:
        """Add a node that no pixel influences.

        If the size of the batch influences the node, it is a length or the same row for each image.
        """
        refs = refs_of(call.arguments)
        sized = any(ref.name in self.batch_scalars for ref in refs)
        repeated = any(ref.name in self.repeated_rows for ref in refs)
        if any(self._perturbed(ref) for ref in refs):
            self.batch_sizes.append(call.name)
            self.batch_scalars.add(call.name)
            return
        if not isinstance(call.value, (Tensor, list, tuple)):
            self.batch_scalars |= {call.name} if sized or repeated else set()
        elif sized or repeated or has_free_size(call.value):
            refuse_batch_arithmetic(call, self.batch_scalars)
            has_rule = (
                call.target in RULES
                or call.target in SPLITS
                or fill_of(call.target, call.arguments) is not None
            )
            equal_rows = (
                has_rule or call.target is operator.getitem if repeated else call.target in _EQUAL_ROWS
            )
            if not equal_rows or not self._separates_images(call):
                raise UnsupportedOp(
                    f"trace: {call.where()} depends on the size of the batch; images must not depend on their number"
                )
            self.repeated_rows.add(call.name)
        self.constants[call.name] = Node(call.name, call.target, call.arguments, (), (), call.module)

    def _add_filled(self, call: ExportedCall, fill: float) -> None:
        """Add a tensor of one value, of which only the shape depends on the input: x·0 is one, whatever x's bounds."""
        size = self._size(call)
        if call.value.shape and isinstance(size[0], Ref):
            self.repeated_rows.add(call.name)
        dtype = torch.float32 if call.value.is_floating_point() else call.value.dtype
        arguments = {"size": size, "fill_value": fill, "dtype": dtype, "device": torch.device("cpu")}
        self.constants[call.name] = Node(call.name, aten.full.default, arguments, (), (), call.module)

    def _with_squeezed_axes(self, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return a squeeze of all axes of size 1 as one of these axes, without that of a batch of one image."""
        whole = self.values[arguments["self"].name].shape
        dims = [dim for dim, size in enumerate(whole) if not isinstance(size, torch.SymInt) and size == 1]
        return aten.squeeze.dims, {"self": arguments["self"], "dim": dims}

    def _with_literal_shape(self, call: ExportedCall) -> ExportedCall:
        """Return the call with a literal shape in place of a tensor that gives only its shape."""
        target, name = LIKE[call.target]
        arguments: dict[str, Any] = {"self": call.arguments["self"], name: self._size(call)}
        if self._perturbed(arguments["self"]):
            arguments[name] = [-1, *arguments[name][1:]]
        if target is aten.expand.default:
            arguments["implicit"] = False
        return call._replace(target=target, arguments=arguments)

    def _size(self, call: ExportedCall) -> list[Any]:
        """Return the shape of a call's value, with its batch free."""
        size: list[Any] = list(call.value.shape)
        if self._keeps_batch(call.value):
            if "batch" not in self.batch_sizes:
                self.batch_sizes.append("batch")
                self.batch_scalars.add("batch")
            size[0] = Ref("batch")
        elif has_free_size(call.value):
            raise UnsupportedOp(f"trace: {call.where()} moves the batch dimension ({size})")
        return size

    def _add_node(self, call: ExportedCall) -> None:
        """Add a node that depends on the input; division and squares are written by operators that have rules."""
        name, target, arguments, value, module = call
        if not isinstance(value, Tensor):
            raise UnsupportedOp(f"trace: {call.where()} does not return one tensor")
        if not self._separates_images(call):
            raise UnsupportedOp(
                f"trace: {call.where()} moves or mixes the batch dimension (output {list(value.shape)}); images must "
                "stay apart in dimension 0"
            )
        if not value.is_floating_point():
            raise UnsupportedOp(f"trace: {call.where()} leaves floating point ({value.dtype})")
        self.values[name] = value
        if target in _ARITHMETIC:
            arguments = {key: self._as_float(item, module) for key, item in arguments.items()}
        operands = tuple(ref.name for ref in refs_of(arguments) if self._perturbed(ref))
        if target is aten.div.Tensor and Ref(operands[-1]) == arguments["other"]:
            inverse = f"{name}.reciprocal"
            divisor_shape = tuple(self._shape(operands[-1]))
            self.nodes[inverse] = Node(
                inverse, aten.reciprocal.default, {"self": arguments["other"]}, (operands[-1],), divisor_shape, module
            )  # fmt: skip
            target, arguments = aten.mul.Tensor, {"self": arguments["self"], "other": Ref(inverse)}
            numerator = arguments["self"]
            operands = (
                (numerator.name, inverse)
                if isinstance(numerator, Ref) and numerator.name in operands
                else (inverse,)
            )
        if target is aten.mul.Tensor and arguments["self"] == arguments["other"]:
            target, arguments, operands = aten.square.default, {"self": arguments["self"]}, operands[:1]
        if target is aten.pow.Tensor_Scalar and arguments["exponent"] == 2:
            target, arguments = aten.square.default, {"self": arguments["self"]}
        shape = tuple(int(size) for size in value.shape[1:])
        self.nodes[name] = Node(name, target, arguments, operands, shape, module)

    def _as_float(self, item: Any, module: str) -> Any:
        """Return a floating-point constant for a mask that is combined with a perturbed tensor."""
        value = self.values.get(item.name) if isinstance(item, Ref) else None
        if not isinstance(value, Tensor) or value.is_floating_point():
            return item
        name = f"{item.name}.float"
        arguments = {"self": item, "dtype": torch.float32}
        self.constants[name] = Node(name, aten._to_copy.default, arguments, (), (), module)
        return Ref(name)

    def _may_be_undefined(self, names: tuple[str, ...]) -> bool:
        """Return whether tensors depend on an operator that is not defined everywhere; 0 times its NaN is NaN."""
        before = upstream(self.nodes, names) & self.nodes.keys()
        rules = (RULES.get(self.nodes[name].target) for name in before)
        return any(isinstance(rule, Nonlinear) and rule.domain is not None for rule in rules)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.input_shape if name == self.input else self.nodes[name].shape

    # The batch

    def _separates_images(self, call: ExportedCall) -> bool:
        """Return whether every image's part of a call's value depends on that image alone."""
        values = call.value if isinstance(call.value, (list, tuple)) else [call.value]
        if not all(isinstance(value, Tensor) and self._keeps_batch(value) for value in values):
            return False
        ranks = [v.dim() for v in map(self.values.get, names_of(call)) if isinstance(v, Tensor)]
        return not moves_images(call.target, call.arguments, ranks[0] if ranks else values[0].dim())

    def _keeps_batch(self, value: Tensor) -> bool:
        """Return whether the batch is dimension 0 and only there; sizes are compared as symbols."""
        free = [isinstance(size, torch.SymInt) for size in value.shape]
        return bool(free) and free[0] and not any(free[1:]) and str(value.shape[0]) == str(self.batch)
