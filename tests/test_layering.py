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
    "cli": {"scipy", "numpy", "bounds.ops"},
}


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


def test_the_layering_test_has_teeth() -> None:
    tree = ast.parse("from certnas.certify import certify\nimport cli.main\nprint('hello')\n")
    assert trespasses(imported(tree), FORBIDDEN["bounds"]) >= {"certnas.certify", "cli.main"}
    assert calls(tree, "print") == [3]


def test_import_certnas_does_not_load_torch() -> None:
    code = "import sys, certnas; assert 'torch' not in sys.modules; certnas.certify; sys.modules['torch']"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
