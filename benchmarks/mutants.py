"""Mutants of a source file; each has one small edit that a test should detect."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

COMPARISONS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
ARITHMETIC: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
}
_PAIRS = {
    "min": "max",
    "minimum": "maximum",
    "amin": "amax",
    "argmin": "argmax",
    "clamp_min": "clamp_max",
    "clamp_min_": "clamp_max_",
    "fmin": "fmax",
}
NAMES = _PAIRS | {after: before for before, after in _PAIRS.items()}
CLAMPS = {"clamp", "clamp_", "clip"}
SYMMETRIC = {"min", "max", "minimum", "maximum", "fmin", "fmax", "plus", "dot"}
"""Functions whose first two arguments commute."""
LOGGERS = {"logging", "logger", "log"}


@dataclass(frozen=True)
class Mutant:
    """A file with the bytes from `start` to `end` replaced.

    `file` is relative to the project's root, `digest` is that of the source, `scope` is the function or
    class around the edit, and `before` and `after` are the edited lines with single spaces.
    """

    file: str
    digest: str
    start: int
    end: int
    text: str
    line: int
    scope: str
    before: str
    after: str

    @property
    def key(self) -> str:
        """The mutant's key in a record, valid as long as its source does not change."""
        return f"{self.file}:{self.digest}:{self.start}:{self.end}:{self.text}"

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The mutant's key in the list of equivalent ones, valid wherever its lines move."""
        return self.file, self.scope, self.before, self.after

    def source(self, root: Path) -> bytes:
        """The file with the edit."""
        data = (root / self.file).read_bytes()
        return data[: self.start] + self.text.encode() + data[self.end :]


def mutants(root: Path, file: Path) -> list[Mutant]:
    """All mutants of a Python file under `root`, in line order.

    Docstrings and other strings, annotations, decorators, raise statements, `__all__` and logging do not
    change. An edit that does not compile, or does not change the syntax tree, is left out.
    """
    data = file.read_bytes()
    tree = ast.parse(data)
    edits = _Edits(data)
    edits.visit(tree)
    name, digest = file.relative_to(root).as_posix(), hashlib.sha256(data).hexdigest()[:12]
    plain, found = ast.dump(tree), []
    for start, end, text, scope in sorted(set(edits.found)):
        changed = data[:start] + text.encode() + data[end:]
        try:
            if ast.dump(ast.parse(changed)) == plain:
                continue
        except SyntaxError:
            continue
        first, last = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", end)
        last = len(data) if last < 0 else last
        lines = data[first:last], data[first:start] + text.encode() + data[end:last]
        before, after = (" ".join(part.decode().split()) for part in lines)
        found.append(
            Mutant(name, digest, start, end, text, data.count(b"\n", 0, start) + 1, scope, before, after)
        )
    return found


class _Edits(ast.NodeVisitor):
    """Collects (start, end, text, scope) of every edit of a source."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.starts = list(
            accumulate((len(line) for line in data.split(b"\n")), lambda a, b: a + b + 1, initial=0)
        )
        self.found: list[tuple[int, int, str, str]] = []
        self.scopes: list[str] = []

    def visit(self, node: ast.AST) -> None:
        """Collect the edits of a node and its children."""
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom) or _is_log(node):
            return
        if isinstance(node, ast.Assign | ast.AugAssign) and "__all__" in ast.unparse(node):
            return
        self.found += ((*edit, ".".join(self.scopes)) for edit in self.edits(node))
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            self.scopes.append(node.name)
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns", "decorator_list", "type_params"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        if named:
            self.scopes.pop()

    def edits(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        """The edits of one node without its children."""
        match node:
            case ast.Compare():
                for kind, (left, right) in zip(
                    node.ops, pairwise([node.left, *node.comparators]), strict=True
                ):
                    yield from self.between(left, right, COMPARISONS.get(type(kind)))
            case ast.BinOp() if not (_is_text(node.left) or _is_text(node.right)):
                yield from self.between(node.left, node.right, ARITHMETIC.get(type(node.op)))
            case ast.BoolOp():
                swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in pairwise(node.values):
                    yield from self.between(left, right, swap)
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield self.span(node)[0], self.span(node.operand)[0], self.gap(node)
            case ast.Constant():
                yield from self.constant(node)
            case ast.If() | ast.IfExp() if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield *self.span(node.test), "True"
                yield *self.span(node.test), "False"
            case ast.AugAssign():
                yield *self.span(node), "pass"
                yield from self.between(node.target, node.value, ARITHMETIC.get(type(node.op)))
            case ast.Expr() if not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
                yield *self.span(node), "pass"
            case ast.Call():
                yield from self.call(node)

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The start and end of a node in the bytes of the source."""
        place = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return self.starts[place[0] - 1] + place[1], self.starts[place[2] - 1] + place[3]

    def gap(self, node: ast.UnaryOp) -> str:
        """The text that remains before the operand without `not` or the minus sign: its parentheses."""
        text = self.data[self.span(node)[0] : self.span(node.operand)[0]].decode()
        return text.removeprefix("not").removeprefix("-").lstrip()

    def between(
        self, left: ast.AST, right: ast.AST, swap: tuple[str, str] | None
    ) -> Iterator[tuple[int, int, str]]:
        """The operator between two operands, swapped."""
        if swap is not None:
            start, end = self.span(left)[1], self.span(right)[0]
            at = self.data.find(swap[0].encode(), start, end)
            if at >= 0:
                yield at, at + len(swap[0]), swap[1]

    def constant(self, node: ast.Constant) -> Iterator[tuple[int, int, str]]:
        """True and False swapped, 0 and 1 swapped, n + 1 for any other number n."""
        value = node.value
        if isinstance(value, bool):
            yield *self.span(node), str(not value)
        elif isinstance(value, int | float):
            yield *self.span(node), repr(1 - value if value in (0, 1) else value + 1)

    def call(self, node: ast.Call) -> Iterator[tuple[int, int, str]]:
        """Minimum and maximum swapped, the other end of a clamp, or the first two arguments swapped."""
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        end = self.span(function)[1]
        if name in NAMES:
            yield end - len(name), end, NAMES[name]
        ends = [keyword for keyword in node.keywords if keyword.arg in ("min", "max")]
        if name in CLAMPS and len(ends) == 1 and ends[0].arg is not None:
            start = self.span(ends[0])[0]
            yield start, start + 3, NAMES[ends[0].arg]
        if name not in SYMMETRIC:
            for first, second in pairwise(node.args):
                if not any(isinstance(argument, ast.Starred) for argument in (first, second)):
                    (a, b), (c, d) = self.span(first), self.span(second)
                    yield a, d, (self.data[c:d] + self.data[b:c] + self.data[a:b]).decode()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_log(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and (ast.unparse(node.value.func).split(".")[0] in LOGGERS)
    )
