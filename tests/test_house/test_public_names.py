"""What is public is said in `__all__`, and what `__all__` says is there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("spaces", "latency_tables", "profilers", "hwnas")


def modules() -> dict[str, Path]:
    """Import name to source file of every module."""
    found = {}
    for folder in FOLDERS:
        name = "hwnas" if folder == "hwnas" else f"hwnas.{folder}"
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([name, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist_and_no_public_definition_is_missing(name: str) -> None:
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    assert sorted(set(module.__all__)) == sorted(module.__all__), f"{name}.__all__ repeats a name"
    for public in module.__all__:
        assert getattr(module, public) is not None
    defined = {
        node.name
        for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined - set(module.__all__) == set()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_offers_exactly_its_public_names(name: str) -> None:
    body = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    late = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in body)
    imported = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hwnas.")
        for alias in node.names
    }
    public = {each for each in defined if not each.startswith("_")}
    offered = {each for each in importlib.import_module(name).__all__ if not each.startswith("_")}
    assert public <= offered
    if not late and not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body):
        assert offered == public | imported  # such a package is a list of what its modules offer


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
