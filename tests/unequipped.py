"""viper where none of its extras is installed: run in a process of its own, which no longer finds their packages."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any

import requirements
from packaging.utils import canonicalize_name

import viper
from viper.cli import run_command
from viper.commands.licences import closure
from viper.errors import UserError


class _Without:
    """Finds what Python finds, but for the modules of some packages and these packages' metadata."""

    def __init__(self, packages: dict[str, Distribution]) -> None:
        self._packages = packages.keys()
        self.modules = {module for package in packages.values() for module in _modules(package)}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.modules else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context: Any = DistributionFinder.Context()) -> Any:  # noqa: B008
        found = PathFinder.find_distributions(context)
        return (each for each in found if canonicalize_name(each.metadata["Name"]) not in self._packages)


def _modules(package: Distribution) -> set[str]:
    if named := package.read_text("top_level.txt"):
        return set(named.split())
    files = (Path(str(file)) for file in package.files or ())
    tops = {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py" or ".so" in file.name}
    return {top for top in tops if top.isidentifier()}


def hide() -> None:
    """Hides every package that only an extra requires."""
    base = closure(requirements.required())
    every = closure(each for extra in requirements.USERS for each in requirements.everything(extra))
    packages = {name: found for name, found in every.items() if found and name not in base}
    hiding = _Without(packages)
    # Some libraries, such as pandas, have imported what they found.
    for name in [name for name in sys.modules if name.partition(".")[0] in hiding.modules]:
        del sys.modules[name]
    sys.meta_path[sys.meta_path.index(PathFinder)] = hiding  # type: ignore[type-abstract, call-overload]
    importlib.invalidate_caches()


def run(*commands: list[str]) -> None:
    """Runs commands one after the other, with `exit code N` after each."""
    hide()
    for name, *arguments in commands:
        try:
            print(f"exit code {run_command(name, arguments)}", flush=True)
        except UserError as error:
            print(f"{error}\nexit code 2", flush=True)


def main() -> None:
    """Imports every module, saying which cannot be imported for lack of what; then runs one command."""
    hide()
    for module in pkgutil.walk_packages(viper.__path__, "viper."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(f"{module.name} needs {error.name}")
    print(f"exit code {run_command(sys.argv[1], sys.argv[2:])}")


if __name__ == "__main__":
    main()
