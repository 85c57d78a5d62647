"""The arrows of docs/architecture.md: imports run one way between rooms, and in no circle between files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import viper

PACKAGE = Path(viper.__file__).parent
ROOT = PACKAGE.parent
# From the top down. A room may import those of the lines below it, and of its own line those that stand to its right.
LAYERS = (
    ("cli", "api", "runs"),
    ("commands",),
    ("web", "report", "inference", "training", "datasets", "demo"),
    ("fusion", "evaluation", "encoders"),
    ("media", "engine"),
    ("store", "weights", "manifest", "clip_ids", "task"),
    ("fingerprints", "files", "temporaries", "bounded"),
    ("logs", "offline", "errors", "streams"),
)
PLACES = {room: (layer, place) for layer, rooms in enumerate(LAYERS) for place, room in enumerate(rooms)}


@dataclass(frozen=True)
class Import:
    """One import of a module of viper by another, wherever it stands in the file."""

    source: str
    target: str
    line: int
    is_for_types: bool

    def __str__(self) -> str:
        path = self.source.replace(".", "/")
        return f"{path}{'/__init__' if _is_package(self.source) else ''}.py:{self.line} imports {self.target}"


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _modules() -> dict[str, ast.Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {_module(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def _targets(node: ast.AST) -> Iterator[str]:
    """The dotted names a statement imports; of a name out of a package, the module where it is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports of viper are absolute"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in _modules() or node.module == "viper" else node.module
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "viper":
        yield f"viper.{node.attr}"


def _nodes(tree: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        inside = for_types or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        yield node, inside
        yield from _nodes(node, inside)


@cache
def _imports() -> tuple[Import, ...]:
    return tuple(
        Import(module, target, getattr(node, "lineno", 0), for_types)
        for module, tree in _modules().items()
        for node, for_types in _nodes(tree)
        for target in _targets(node)
        if target.startswith("viper.") and not target.startswith("viper.__")
    )


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place() -> None:
    rooms = {_room(module) for module in _modules()} - {""}
    assert rooms - PLACES.keys() == set(), "say in LAYERS, and in docs/architecture.md, where these belong"


def test_imports_lead_somewhere() -> None:
    """Also those inside functions, which nothing looks at until they run."""
    public = {f"viper.{name}" for name in viper.__all__}
    lost = [each for each in _imports() if each.target not in _modules() and each.target not in public]
    assert not lost, "imports of modules that are not there:\n" + "\n".join(map(str, lost))


def test_imports_run_one_way_between_rooms() -> None:
    wrong = []
    for each in _imports():
        here, there = _room(each.source), _room(each.target)
        if not here or here == there:
            continue  # the package itself imports each public name when it is first asked for
        # Any other name of the package itself is one of its public names, which stand above everything.
        if PLACES.get(there, (0, 0)) < PLACES[here]:
            wrong.append(each)
    assert not wrong, "imports against the arrows:\n" + "\n".join(map(str, wrong))


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in _modules()}
    for each in _imports():
        # The package itself imports its public names when they are asked for, and is imported by all.
        if not each.is_for_types and each.target in graph and "." in each.source and "." in each.target:
            graph[each.source].add(each.target)
    circles = [" -> ".join(circle) for circle in _circles(graph)]
    assert not circles, "files that import each other:\n" + "\n".join(circles)


def test_the_architecture_page_names_what_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:viper|tests|scripts|data_manifests)/[\w/.]*", text))
    lost = sorted(path for path in named if not (ROOT / path.rstrip(".")).exists())
    assert not lost, "docs/architecture.md names files that are not there:\n" + "\n".join(lost)
    rooms = {f"viper/{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms - named == set(), "docs/architecture.md should say what these are for"


def _circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Circles of a graph, each as a path that ends where it began; some if not all."""
    state: dict[str, int] = {}  # 1: on the path, 2: done

    def visit(module: str, path: list[str]) -> Iterator[list[str]]:
        state[module] = 1
        for target in sorted(graph[module] - {module}):
            if state.get(target) == 1:
                yield [*path[path.index(target) :], target]
            elif target not in state:
                yield from visit(target, [*path, target])
        state[module] = 2

    for module in sorted(graph):
        if module not in state:
            yield from visit(module, [module])


def test_circles_are_found() -> None:
    assert list(_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})) == [["b", "c", "b"]]
    assert list(_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})) == []


def test_there_is_one_conftest() -> None:
    # Tests import from it by its name, which would mean whichever was loaded last.
    assert list((ROOT / "tests").rglob("conftest.py")) == [ROOT / "tests" / "conftest.py"]
