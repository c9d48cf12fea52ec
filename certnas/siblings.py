"""Makes `bounds` and `cli` importable as `certnas.bounds` and `certnas.cli`, which no file of the user can shadow.

The folders `bounds` and `cli` lie beside `certnas`, and are packages of these names. A file `bounds.py` in a user's
working directory takes the name `bounds`. Everything inside certnas therefore imports `certnas.bounds`. If nothing
shadows it, `bounds` is the same package: the same modules under a second name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

FOLDER = Path(__file__).parents[1]
SIBLINGS = ("bounds", "cli")


class _SecondName(Loader):
    """Loads a module `bounds.x` by importing `certnas.bounds.x`, so both are the same module.

    The import system then sets `bounds.x` to the module, so no package here may export a function with the name of
    its module.
    """

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._module = import_module(f"certnas.{spec.name}")
        self._spec = self._module.__spec__
        return self._module

    def get_code(self, fullname: str) -> CodeType | None:
        """What `python -m bounds.x` runs."""
        spec = find_spec(f"certnas.{fullname}")
        return spec.loader.get_code(spec.name) if spec and isinstance(spec.loader, InspectLoader) else None

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system replaced it by the spec of the second name


class _Finder(MetaPathFinder):
    """Finds `certnas.bounds` and `certnas.cli` beside this package, and their modules under the short names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of one of these modules; None for any other module."""
        first, _, rest = fullname.partition(".")
        if first == "certnas" and rest in SIBLINGS:
            folder = FOLDER / rest
            return spec_from_file_location(
                fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
        if first in SIBLINGS and (_ours(first) if path is None else _inside(path, fullname)):
            at = FOLDER.joinpath(*fullname.split("."))
            origin = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
            return ModuleSpec(fullname, _SecondName(), origin=str(origin), is_package=at.is_dir())
        return None


def _inside(path: Sequence[str], fullname: str) -> bool:
    """Whether a package's path is the folder beside this one that the module's name implies."""
    return list(path) == [str(FOLDER.joinpath(*fullname.split(".")[:-1]))]


def _ours(name: str) -> bool:
    """Whether a plain import of the name finds the package beside this one."""
    found = PathFinder.find_spec(name)
    return found is not None and found.origin == str(FOLDER / name / "__init__.py")


def install() -> None:
    """Enables these imports; it runs once, when `certnas` is imported, and so when `bounds` or `cli` is."""
    sys.meta_path.insert(0, _Finder())
    for name in SIBLINGS:
        begun = sys.modules.get(name)
        if begun is not None and begun.__file__ == str(FOLDER / name / "__init__.py"):
            sys.modules[name] = import_module(f"certnas.{name}")
