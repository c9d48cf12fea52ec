"""Imports point down: cli → certnas → bounds.  certnas never prints; cli does no mathematics."""

import ast
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
CONTRACT = {"bounds", "bounds.extend"}
"""The modules of `bounds` that others may import."""
LAYERS = (
    ("errors", "memory_format"),
    ("interval", "graph.batch_norm", "graph.node", "graph.graph", "graph", "graph.purity", "graph.functionalise",
     "graph.canonical"),
    ("relaxation", "region", "patch", "specification", "chunking"),
    ("operators",),
    ("graph.trace", "graph.facts", "graph.folding"),
    ("passes",),
    ("cost_model", "intermediate", "one_sided", "rows", "state"),
    ("methods",),
    ("estimates", "extend"),
)  # fmt: skip
"""The layers of `bounds`, lowest first; a module imports from its own layer and from those below it."""


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source in {package}/"
    return files


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


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
        if (bad := trespasses(imported(ast.parse(path.read_text())), FORBIDDEN[package]))
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


def test_the_layers_of_bounds() -> None:
    found = set()
    for path in sources("bounds"):
        module = ".".join(path.relative_to(ROOT / "bounds").with_suffix("").parts).removesuffix(".__init__")
        own = layer_of(module)
        if module == "__init__":
            continue
        assert own is not None, f"{path} has no layer"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bounds"):
                above = layer_of(node.module.removeprefix("bounds").removeprefix("."))
                if above is None or above > own:
                    found.add((module, node.module))
    assert found == set()


@pytest.mark.parametrize("package", ["certnas", "cli", "benchmarks"])
def test_others_import_bounds_by_its_contract(package: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        )
        if name.split(".")[0] == "bounds" and name not in CONTRACT
    }  # fmt: skip
    assert found == set()


def test_the_layering_test_has_teeth() -> None:
    tree = ast.parse("from certnas.certify import certify\nimport cli.main\nprint('hello')\n")
    assert trespasses(imported(tree), FORBIDDEN["bounds"]) >= {"certnas.certify", "cli.main"}
    assert calls(tree, "print") == [3]


def test_import_certnas_does_not_load_torch() -> None:
    code = "import sys, certnas; assert 'torch' not in sys.modules; certnas.certify; sys.modules['torch']"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
