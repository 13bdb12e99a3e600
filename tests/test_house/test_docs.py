"""The documents are true: their links lead somewhere, their Python runs, their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.profilers import profilers
from hwnas.spaces.space import spaces
from hwnas.strategies import strategies

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: pages whose Python takes seconds; the others run the main job
QUICK = ("docs/report.md", "docs/spaces.md", "docs/constraints.md", "docs/strategies/README.md")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", QUICK)
def test_python_in_the_pages_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "quickstart.sh"], ids=name)
def test_commands_and_options_in_the_pages_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hwnas.cli import main

    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL) if page.suffix == ".md" else [text]
    for command, rest in re.findall(r"^hwnas (\w+)(.*)$", "\n".join(blocks), flags=re.MULTILINE):
        assert main([command, "--help"]) == 0, f"{name(page)} runs hwnas {command}"
        known = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--[\w-]+", rest.split("#")[0]):
            assert option in known, f"{name(page)} gives {option} to hwnas {command}"


def test_everything_built_in_has_its_page() -> None:
    assert all((ROOT / "docs" / "strategies" / f"{strategy}.md").is_file() for strategy in strategies.builtin)
    assert all((ROOT / "docs" / "devices" / f"{device}.md").is_file() for device in profilers.builtin)
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    assert all(f"## `{space}`" in text for space in spaces.builtin)
