"""Imports run downward only: spaces < latency_tables < profilers < hwnas."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("spaces", "latency_tables", "profilers", "hwnas")
MODULES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def floor_of(module: str) -> int:
    """Number of the floor that an imported module of ours lives on."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else FLOORS.index("hwnas")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module of ours that a file imports, also late, relatively, or by text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the installed name"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "hwnas" else [base]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"hwnas[\w.]*:\w+", str(node.value)):
            names = [str(node.value).split(":")[0]]  # a registry line
        else:
            continue
        yield from ((node.lineno, name) for name in names if name == "hwnas" or name.startswith("hwnas."))


def test_every_floor_is_there() -> None:
    for floor in FLOORS:
        assert (ROOT / floor / "__init__.py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    own = FLOORS.index(path.relative_to(ROOT).parts[0])
    for line, name in imports(path):
        assert floor_of(name) <= own, f"{path.relative_to(ROOT)}:{line} imports {name}, which is on a floor above"


def test_the_rule_sees_a_violation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text('def f():\n    from hwnas.profilers import x\n\n\nR = {"a": "hwnas.run:Run"}\n')
    assert [floor_of(name) for _, name in sorted(imports(bad))] == [2, 3]


def test_no_module_is_longer_than_500_lines() -> None:
    long = {str(path.relative_to(ROOT)): count for path in MODULES if (count := path.read_text().count("\n")) > 500}
    assert long == {}
