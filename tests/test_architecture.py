"""The house: imports go one way, files stay small, public names are documented, nothing unsafe is called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchstone"
FILES = sorted(SOURCE.rglob("*.py"))

BLOCKS = [
    "autodiff",
    "layers",
    "losses",
    "optim",
    "init",
    "augment",
    "robust",
    "approximation",
    "training",
    "data",
]
# Rooms and files from the ground up; imports go to lower levels or stay on their own.
LEVELS: list[set[str]] = [
    {"errors", "linalg", "stateless", "_version", "_before_torch"},
    {
        "batches",
        "details",
        "reading",
        "serialise",
        "recipe",
        "objectives",
        "specimen",
        "plan",
        "examination",
        "writing",
    },
    {"operators", "kernels", "bounds", "landscape", "memory"},
    set(BLOCKS),
    {"specimens", "workbench", "instruments", "mending"},
    {"examining", "watching", "journal", "environment", "progress", "report"},
    {"atlas", "testing"},
    {"cli", "__init__", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Building blocks serve people without specimens, so they may not know of them.
BLOCKS_MAY_IMPORT = {"errors", "writing", "linalg", "kernels", "bounds", "stateless", *BLOCKS}
REPORT_MAY_IMPORT = {"errors", "details", "reading", "examination", "plan", "serialise", "report"}
# Methods of plain data that draw it; imported when called.
ALLOWED = {("examination", "report")}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "torchstone":
                names = [f"torchstone.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("torchstone.")}
    return rooms


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_one_way(file: Path) -> None:
    room = room_of(file)
    assert room in LEVEL, f"{room} has no place in the house: add it to LEVELS"
    rooms = {other for other in imported_rooms(file) - {room} if (room, other) not in ALLOWED}
    upward = {other for other in rooms if LEVEL.get(other, 99) > LEVEL[room]}
    assert not upward, f"{file.name} imports upward: {upward}"
    if room in BLOCKS:
        assert rooms <= BLOCKS_MAY_IMPORT, f"a building block imports {rooms - BLOCKS_MAY_IMPORT}"
    if room == "report":
        assert rooms <= REPORT_MAY_IMPORT, f"the report imports {rooms - REPORT_MAY_IMPORT}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_and_functions_are_small_and_public_names_documented(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 400, "over 400 lines: split it"
    assert ast.get_docstring(tree), "a module without a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            documented = ast.get_docstring(node) or node.name.startswith("_") or file.name == "networks.py"
            if node in tree.body:
                assert documented, f"{node.name} is public and has no docstring"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = (node.end_lineno or 0) - node.lineno - docstring.count("\n")
            assert length <= 60, f"{node.name} has {length} lines of code"


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.name == "__init__.py"], ids=lambda f: str(f.parent.name)
)
def test_package_files_only_export(file: Path) -> None:
    for node in ast.parse(file.read_text()).body:
        is_all = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_all or is_docstring or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)[:80]


def test_nothing_unsafe_is_called() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "cloudpickle"} & {name.split(".")[0] for name in names}, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.manual_seed"), f"{file}: {called}"
                if called == "torch.load":
                    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert keywords.get("weights_only") == "True", file


def test_importing_the_package_is_light() -> None:
    heavy = ["scipy", "sklearn", "plotly", "transformers", "rich", "typer", "jinja2", "hypothesis"]
    code = f"import sys, torchstone; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
