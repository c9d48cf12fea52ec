"""From an `nn.Module` to a `Graph`, through torch.export, without decomposition."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from bounds.composed import compose
from bounds.errors import InvalidInput, UnsupportedOp
from bounds.graph import Graph, Node, Ref
from bounds.rewrites import SPLITS, VIEWS, Slicer, fill_of, moves_images

aten = torch.ops.aten


def trace(model: nn.Module, example: Tensor) -> Graph:
    """Read the network's structure once; its batch dimension stays free.

    example [n, C, H, W] (any input shape, first dimension the batch; values do not matter).  A model that returns a
    tuple, such as (logits, auxiliary), is traced for the first.  Evaluation mode is expected; in training mode
    batch normalisation keeps its batch statistics (see `Graph.bind`).
    Raises InvalidInput if the model cannot be exported, UnsupportedOp if it does something no rule can follow.
    """
    example = example.detach()
    if len(example) < 2:
        example = torch.cat([example, example])
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    training = {module: module.training for module in model.modules()}
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidInput(
            f"trace: torch.export cannot read the model with input {list(example.shape)} and a free batch: {first}"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    compose(program)
    tensors: dict[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return _Reader(program, tensors, tuple(example.shape[1:])).graph()


class _Reader:
    """Walks an exported graph once and keeps what the output needs."""

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
        self.input = ""
        self.batch: Any = None

    def graph(self) -> Graph:
        output = ""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                output = self._name(self._first(node.args[0]))
            else:
                raise UnsupportedOp(f"trace: graph node {node.op} '{node.name}' is not an operator call")
        if output != self.input and output not in self.nodes:
            raise InvalidInput("trace: the model's output does not depend on its input")
        nodes, constants, batch_sizes = self._needed(output)
        defaults = {name: self.defaults[name] for name in self.parameters.values()}
        return Graph(
            input=self.input, output=output, input_shape=self.input_shape, nodes=nodes, constants=constants,
            parameters=self.parameters, defaults=defaults, batch_sizes=batch_sizes,
        )  # fmt: skip

    def _first(self, value: Any) -> fx.Node:
        """The network's output: the first tensor returned that belongs to the model (mutated buffers come before)."""
        specs = self.program.graph_signature.output_specs
        kinds = [spec.kind.name for spec in specs]
        if "USER_OUTPUT" not in kinds:
            raise InvalidInput("trace: the model returns no tensor")
        return value[kinds.index("USER_OUTPUT")]

    def _placeholder(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        source = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
        lifted = signature.inputs_to_lifted_tensor_constants.get(node.name)
        if source is not None or lifted is not None:
            name = source or lifted
            self.parameters[node.name] = name
            self.defaults[name] = self.tensors[name] if name in self.tensors else self.program.constants[name]
        else:
            self.input = node.name
            self.batch = node.meta["val"].shape[0]

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

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        if target is operator.getitem:
            piece: Any = (self._name(node.args[0]), node.args[1])  # type: ignore[arg-type]
            if piece in self.pieces:
                self.alias[node.name] = self.pieces[piece]
                return
        if target is aten.sym_size.int and self._perturbed(self._argument(node.args[0])):
            if node.args[1] != 0:
                raise UnsupportedOp(
                    f"trace: '{node.name}' reads a size other than the batch's from a traced tensor"
                )
            self.batch_sizes.append(node.name)
            return
        arguments = self._bound(node)
        in_place = (
            isinstance(target, torch._ops.OpOverload)
            and target._schema.name.endswith("_")
            and target._schema.is_mutable
        )
        if in_place:
            target = self._functional(node, target)
        fill = fill_of(target, arguments)
        if fill is not None and any(self._perturbed(ref) for ref in _refs(arguments)):
            self._filled(node, fill)
            if in_place:
                self.alias[self._name(node.args[0])] = node.name  # type: ignore[arg-type]
            return
        if target is aten.batch_norm.default and arguments["training"]:
            arguments = {
                **arguments,
                "running_mean": None,
                "running_var": None,
            }  # else evaluation updates them
        operands = tuple(ref.name for ref in _refs(arguments) if self._perturbed(ref))
        twin = self.same.setdefault((target, repr(arguments)), node.name)
        if operands and twin != node.name and not in_place:
            self.alias[node.name] = twin  # the same operator on the same tensors: one node, one relaxation
            return
        if not operands:
            self.constants[node.name] = Node(node.name, target, arguments, (), (), _module(node))
            return
        if target in SPLITS:
            self._split(node, SPLITS[target], arguments, operands)
            return
        self._add(node.name, target, arguments, operands, node.meta["val"], _module(node))
        if in_place:
            mutated = self._name(node.args[0])  # type: ignore[arg-type]
            self.alias[mutated] = node.name

    def _filled(self, node: fx.Node, fill: float) -> None:
        """A tensor of one value, of which only the shape depends on the input: x·0 is one whatever x's bounds."""
        size: list[Any] = list(node.meta["val"].shape)
        if self._keeps_batch(node.meta["val"]):
            if "batch" not in self.batch_sizes:
                self.batch_sizes.append("batch")
            size[0] = Ref("batch")
        elif any(isinstance(length, torch.SymInt) for length in size):
            raise UnsupportedOp(f"trace: {node.target} at '{node.name}' moves the batch dimension ({size})")
        arguments = {"size": size, "fill_value": fill, "dtype": torch.float32, "device": torch.device("cpu")}
        self.constants[node.name] = Node(node.name, aten.full.default, arguments, (), (), _module(node))

    def _add(
        self,
        name: str,
        target: Any,
        arguments: dict[str, Any],
        operands: tuple[str, ...],
        value: Any,
        module: str,
    ) -> None:
        if not isinstance(value, Tensor):
            raise UnsupportedOp(
                f"trace: {target} at '{name}'{f', in {module}' if module else ''} does not return one tensor"
            )
        if not self._keeps_batch(value) or moves_images(target, arguments, value.dim()):
            raise UnsupportedOp(
                f"trace: {target} at '{name}'{f', in {module}' if module else ''} moves or mixes the batch dimension "
                f"(output {list(value.shape)}); images must stay apart in dimension 0"
            )
        if not value.is_floating_point():
            raise UnsupportedOp(
                f"trace: {target} at '{name}'{f', in {module}' if module else ''} leaves floating point ({value.dtype})"
            )
        if target is aten.div.Tensor and Ref(operands[-1]) == arguments["other"]:
            inverse = f"{name}.reciprocal"
            divisor_shape = tuple(self._shape(operands[-1]))
            self.nodes[inverse] = Node(
                inverse,
                aten.reciprocal.default,
                {"self": arguments["other"]},
                (operands[-1],),
                divisor_shape,
                module,
            )
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

    def _keeps_batch(self, value: Tensor) -> bool:
        """Whether the batch is dimension 0 and only there; sizes are compared as symbols, not by the example's."""
        free = [isinstance(size, torch.SymInt) for size in value.shape]
        return bool(free) and free[0] and not any(free[1:]) and str(value.shape[0]) == str(self.batch)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.input_shape if name == self.input else self.nodes[name].shape

    def _bound(self, node: fx.Node) -> dict[str, Any]:
        """The call's arguments by their schema names, defaults filled in."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return {str(i): self._argument(value) for i, value in enumerate(node.args)}
        schema = node.target._schema.arguments
        named = {argument.name: argument.default_value for argument in schema}
        named.update(
            {argument.name: self._argument(v) for argument, v in zip(schema, node.args, strict=False)}
        )
        named.update({key: self._argument(value) for key, value in node.kwargs.items()})
        return named

    def _perturbed(self, ref: Any) -> bool:
        return isinstance(ref, Ref) and (ref.name == self.input or ref.name in self.nodes)

    def _functional(self, node: fx.Node, target: Any) -> Any:
        """The out-of-place twin of an in-place operator, where reading it so is safe."""
        mutated = node.args[0]
        assert isinstance(mutated, fx.Node)
        base = mutated
        while base.op == "call_function" and base.target in VIEWS:
            base = base.args[0]  # type: ignore[assignment]
        order = list(self.program.graph.nodes)
        later = {user for user in _family(base) if order.index(user) > order.index(node)} - {node}
        viewed = mutated is not base or any(user.target in VIEWS for user in _family(base) - _family(node))
        if viewed and any(user not in _family(node) for user in later):
            raise UnsupportedOp(
                f"trace: in-place {target} at '{node.name}' changes a view that is read elsewhere; "
                "use the out-of-place form"
            )
        packet, overload = target._schema.name.split("::")[1].rstrip("_"), target._overloadname
        functional = getattr(getattr(aten, packet, None), overload, None)
        if functional is None:
            raise UnsupportedOp(f"trace: in-place {target} at '{node.name}' has no out-of-place form")
        return functional

    def _split(
        self,
        node: fx.Node,
        slicer: Slicer,
        arguments: dict[str, Any],
        operands: tuple[str, ...],
    ) -> None:
        """An operator with several outputs becomes one slice or select for each."""
        values = node.meta["val"]
        for i, (target, extra) in enumerate(slicer(arguments, values)):
            name = f"{node.name}.{i}"  # no exported name has a dot
            self._add(name, target, {"self": arguments["self"], **extra}, operands, values[i], _module(node))
            self.pieces[(node.name, i)] = name

    def _needed(self, output: str) -> tuple[dict[str, Node], tuple[Node, ...], tuple[str, ...]]:
        """Only what the output depends on: statistics counters and auxiliary heads fall away."""
        wanted = {output}
        for node in reversed([*self.constants.values(), *self.nodes.values()]):
            if node.name in wanted:
                wanted.update(ref.name for ref in _refs(node.arguments))
        self.parameters = {k: v for k, v in self.parameters.items() if k in wanted}
        nodes = {k: v for k, v in self.nodes.items() if k in wanted}
        constants = tuple(v for k, v in self.constants.items() if k in wanted)
        return nodes, constants, tuple(name for name in self.batch_sizes if name in wanted)


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


def _family(node: fx.Node) -> set[fx.Node]:
    """The users of a node and, through views, of the same memory."""
    users: set[fx.Node] = set()
    stack = [node]
    while stack:
        for user in stack.pop().users:
            if user not in users:
                users.add(user)
                if user.target in VIEWS:
                    stack.append(user)
    return users


def _module(node: fx.Node) -> str:
    """The path of the user's module that made the call, e.g. 'cells.2.ops.1'."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_")]
    return paths[-1] if paths else ""
