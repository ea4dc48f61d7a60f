"""The house stands: rooms import only rooms above them in docs/rooms.md; reading needs no torch."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import llmbench

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmbench"
DOOR = {"campaign", "cli", "notebook", "validation"}  # rooms of floor 8 that start both wings
MEASURING = range(3, 6)
HEAVY = {"torch", "transformers", "bitsandbytes"}
FOREIGN = {"notebooks", "kernels", "tests", "scripts", "outputs", "params"}
DYNAMIC = {"", "engines", "worker"}  # the facade, the table of engines, what an engine names heavy


class Import(NamedTuple):
    """One imported module, as a dotted name, and where it stands."""

    name: str
    line: int
    lazy: bool  # inside a function


@functools.cache
def floors() -> dict[str, int]:
    """Room → floor, in the order of the page."""
    page = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(rows) > 20, "docs/rooms.md has lost its table"
    return {room: int(floor) for floor, room in rows}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Module → its tree, by the name behind `llmbench.`; the package itself is ''."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def room_of(module: str, rooms: dict[str, int]) -> str | None:
    """The room a module belongs to: itself, or its package when no part of that is a room."""
    if module in rooms:
        return module
    package = module.rpartition(".")[0]
    divided = any(room.startswith(f"{package}.") for room in rooms)
    return package if package in rooms and not divided else None


def imports(tree: ast.AST, known: set[str], lazy: bool = False) -> Iterator[Import]:
    """Every import in `tree`; `from llmbench import x` counts as `llmbench.x` when that is one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write imports from llmbench, not relative"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                is_module = deeper.removeprefix("llmbench.") in known
                yield Import(deeper if is_module else node.module, node.lineno, lazy)
        inner = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, known, inner)


def house() -> Iterator[tuple[str, str, Import]]:
    """(module, room, import) for every import in the package."""
    for module, tree in modules().items():
        room = room_of(module, floors()) or module
        for found in imports(tree, set(modules())):
            yield module, room, found


def faults(module: str, room: str, found: Import, rooms: dict[str, int]) -> Iterator[str]:
    """What the rules of the house say against one import."""
    where = f"{module or '__init__'}:{found.line} imports {found.name}"
    outer = found.name.partition(".")[0]
    if outer in FOREIGN:
        yield f"{where}, which is no part of the package"
    if outer in HEAVY and not found.lazy:
        yield f"{where} outside a function: importing this room wakes it"
    if outer in HEAVY and rooms.get(room) not in MEASURING:
        yield f"{where} in a room that does not measure"
    if outer != "llmbench" or module in ("", "__main__"):
        return
    target = room_of(found.name.removeprefix("llmbench").removeprefix("."), rooms)
    if target is None:
        if room != "cli" and found.name != "llmbench":
            yield f"{where}, which is no room"
    elif target != room:
        order = list(rooms)
        if room not in rooms or order.index(target) >= order.index(room):
            yield f"{where}, which is not above it"
        if rooms.get(room, 0) > 5 and rooms[target] in MEASURING and room not in DOOR:
            yield f"{where}: the reading wing may not use the measuring wing"


def test_every_module_is_a_room_and_every_room_a_module():
    empty = {n for n, tree in modules().items() if not tree.body}
    rooms = {m: room_of(m, floors()) for m in modules() if m not in empty | {"", "__main__"}}
    assert [m for m, room in rooms.items() if room is None] == []
    assert sorted(set(floors()) - set(rooms.values())) == []


def test_floors_never_fall_along_the_page():
    numbers = list(floors().values())
    assert numbers == sorted(numbers)


def test_imports_go_up_the_page_only():
    assert [f for entry in house() for f in faults(*entry, floors())] == []


@pytest.mark.parametrize(
    ("source", "room", "said"),
    [
        ("import torch", "metrics", "outside a function"),
        ("def f():\n    import torch.nn", "metrics", "does not measure"),
        ("class A:\n    from transformers import B", "timing", "outside a function"),
        ("from llmbench import findings", "stats", "not above"),
        ("def f():\n    from llmbench.cli import main", "store", "not above"),
        ("from llmbench.engines.base import Engine", "figures", "reading wing"),
        ("from llmbench import sweep", "checker", "reading wing"),
        ("import kernels.attention", "timing", "no part of the package"),
        ("from llmbench.nowhere import x", "stats", "no room"),
    ],
)
def test_the_rules_catch_what_they_forbid(source, room, said):
    found = list(imports(ast.parse(source), set(modules())))
    assert said in " ".join(f for i in found for f in faults(room, room, i, floors()))


@pytest.mark.parametrize(
    ("source", "room"),
    [
        ("def f():\n    import torch", "engines.transformers"),
        ("from llmbench import sweep", "cli"),
        ("from llmbench import errors, stats", "metrics"),
        ("from llmbench.store.files import snapshot", "store"),
        ("from pathlib import Path", "errors"),
    ],
)
def test_the_rules_allow_what_they_promise(source, room):
    found = list(imports(ast.parse(source), set(modules())))
    assert [f for i in found for f in faults(room, room, i, floors())] == []


def test_only_the_facade_and_the_table_of_engines_import_by_name():
    """An import by a string would be hidden from the rules above."""
    names = {"import_module", "__import__", "run_module"}
    callers = {
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") in names or getattr(node.func, "attr", "") in names)
    }
    assert callers <= DYNAMIC


def test_only_the_command_line_uses_the_facade():
    """`llmbench.read(...)` inside the package would reach any room without importing it."""
    users = {
        room_of(module, floors())
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "llmbench"
    }
    assert users <= {"cli"}


def test_the_facade_names_functions_and_no_room_bears_such_a_name():
    for name in set(llmbench.__all__) - {"__version__"}:
        assert callable(getattr(llmbench, name)), name
        assert name not in modules(), f"importing the room {name} would shadow llmbench.{name}"


def test_importing_the_package_and_its_figures_leaves_torch_asleep():
    said = subprocess.run(
        [sys.executable, "-c",
         "import sys, llmbench; from llmbench import figures; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    loaded = set(said.stdout.split())
    assert "llmbench.figures" in loaded
    assert not loaded & HEAVY


def test_no_room_wakes_torch_by_being_imported():
    """All at once, the measuring wing too: engines import torch when they load a model."""
    rooms = [f"llmbench.{m}" if m else "llmbench" for m in modules() if m != "__main__"]
    code = f"import sys, importlib\nfor room in {rooms!r}: importlib.import_module(room)\n"
    said = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    loaded = set(said.stdout.split())
    assert set(rooms) <= loaded
    assert not loaded & HEAVY


def test_the_folders_beside_the_package_are_not_importable_packages():
    for folder in FOREIGN - {"tests"}:
        assert not (ROOT / folder / "__init__.py").exists(), folder
    assert importlib.import_module("llmbench").__file__ == str(PACKAGE / "__init__.py")
