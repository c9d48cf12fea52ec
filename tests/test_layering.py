"""Imports point down: cli → certnas → bounds.  certnas never prints; cli does no mathematics."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "bounds": {"certnas", "cli"},
    "certnas": {"cli", "click", "rich"},
    "cli": {"scipy", "numpy", "bounds.extend"},
}
NAMED = {"__init__.py": {"certnas"}}
"""`bounds` and `cli` import certnas for their second names, see `certnas.siblings`."""
CONTRACT = {"bounds", "bounds.extend"}
"""The modules of `bounds` that others may import."""
LAYERS = (
    ("errors", "memory_format"),
    ("interval", "graph.batch_norm", "graph.node", "graph.graph", "graph", "graph.exported", "graph.purity",
     "graph.functionalise", "graph.canonical"),
    ("relaxation", "region", "patch", "specification", "chunking"),
    ("operators",),
    ("graph.reader", "graph.trace", "graph.facts", "graph.folding"),
    ("passes",),
    ("cost_model", "intermediate", "one_sided", "rows", "state"),
    ("methods",),
    ("estimation", "extend"),
)  # fmt: skip
"""The layers of `bounds`, lowest first; a module imports from its own layer and from those below it."""


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source in {package}/"
    return files


def imported(tree: ast.AST, inside: str = "") -> set[str]:
    """Every module, and every name of one, that a file imports; `inside`: the package that the file lies in.

    `certnas.bounds` is `bounds`, and `certnas.cli` is `cli`.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = inside.split(".")[: len(inside.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {re.sub(r"^certnas\.(bounds|cli)(?=\.|$)", r"\1", name) for name in names}


def imports_of(path: Path) -> set[str]:
    inside = ".".join(path.relative_to(ROOT).parts[:-1])
    return imported(ast.parse(path.read_text()), inside)


def trespasses(names: set[str], forbidden: set[str]) -> set[str]:
    return {name for name in names for root in forbidden if name == root or name.startswith(root + ".")}


def calls(tree: ast.AST, *functions: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
    ]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_point_down(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): bad
        for path in sources(package)
        if (bad := trespasses(imports_of(path), FORBIDDEN[package]) - NAMED.get(path.name, set()))
    }
    assert found == {}


@pytest.mark.parametrize("package", ["bounds", "certnas"])
def test_libraries_never_print(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sources(package)
        if (lines := calls(ast.parse(path.read_text()), "print", "input", "exit", "quit"))
    }
    assert found == {}


def test_cli_asks_torch_for_nothing_but_names() -> None:
    """cli may name a dtype or a device; a tensor operation belongs to certnas or bounds."""
    allowed = {"torch.float32", "torch.float64", "torch.device", "torch.Tensor", "torch.set_num_threads"}
    found = {}
    for path in sources("cli"):
        used = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.")
        }
        if bad := used - allowed:
            found[path.name] = bad
    assert found == {}


def layer_of(module: str) -> int | None:
    """The layer of the longest prefix that the table names; None for the package itself."""
    places = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    parts = module.split(".")
    return next((places[p] for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in places), None)


def modules(package: str) -> set[str]:
    """The dotted names of its modules."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(package)
    }


def test_the_layers_of_bounds() -> None:
    known, found = modules("bounds"), set()
    for path in sources("bounds"):
        module = ".".join(path.relative_to(ROOT / "bounds").with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        own = layer_of(module)
        assert own is not None, f"{path} has no layer"
        for name in imports_of(path) & (known - {"bounds"}):
            above = layer_of(name.removeprefix("bounds."))
            if above is None or above > own:
                found.add((module, name))
    assert found == set()


@pytest.mark.parametrize("package", ["certnas", "cli", "benchmarks"])
def test_others_import_bounds_by_its_contract(package: str) -> None:
    private = modules("bounds") - CONTRACT
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sources(package)
        for name in imports_of(path) & private
    }
    assert found == set()


def test_the_layering_test_has_teeth() -> None:
    tree = ast.parse("from certnas.certify import certify\nimport cli.main\nprint('hello')\n")
    assert trespasses(imported(tree), FORBIDDEN["bounds"]) >= {"certnas.certify", "cli.main"}
    assert calls(tree, "print") == [3]
    inside = imported(
        ast.parse("from ..region import Linf\nfrom . import held\nfrom certnas.bounds.state import Meet"),
        "bounds.passes",
    )
    assert inside >= {"bounds.region", "bounds.passes.held", "bounds.state"}
    assert layer_of("passes.crown") == layer_of("passes") != layer_of("graph.trace") != layer_of("graph")


def test_import_certnas_does_not_load_torch() -> None:
    code = "import sys, certnas; assert 'torch' not in sys.modules; certnas.certify; sys.modules['torch']"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
