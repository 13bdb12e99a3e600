"""Reports on runs that hold little, much, or something odd."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import hwnas
from hwnas.evaluators import Evaluation
from hwnas.spaces import get_space
from hwnas.strategies import make_strategy
from hwnas.svg_plot import Plot, number


def a_run(folder: Path, space: str = "nasbench201", state: dict[str, Any] | None = None) -> hwnas.Run:
    run = hwnas.Run.create(folder, {"space": space, "data": "digits", "constraints": ["flops <= 1M"]})
    if state is not None:
        run.save_state(state)
    run.close()
    return run


def searched() -> dict[str, Any]:
    strategy = make_strategy("fpnas", get_space("nasbench201"), None, rate=1.0)
    for _ in range(6):
        strategy.tell([Evaluation(a, float(sum(a))) for a in strategy.ask(8)])
    return {"told": 0, "strategy": strategy.state_dict()}


def html_of(folder: Path) -> str:
    return hwnas.report(folder).html.read_text()


def test_an_empty_run(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    text = html_of(tmp_path / "run")
    assert "Not finished" in text
    assert "Distribution" not in text


def test_the_distribution_of_an_unfinished_run(tmp_path: Path) -> None:
    a_run(tmp_path / "run", state=searched())
    text = html_of(tmp_path / "run")
    assert text.count("<polyline") == 5
    assert text.count('class="p"') == 30
    assert "<script" not in text


def test_a_distribution_that_does_not_fit_is_said_to(tmp_path: Path) -> None:
    a_run(tmp_path / "run", space="mobilenet", state=searched())
    assert "do not fit the space" in html_of(tmp_path / "run")


@pytest.mark.parametrize("state", [{}, {"strategy": 3}, {"strategy": {"own": {"trace": 1}}}, {"strategy": {"own": 2}}])
def test_states_without_a_trace(tmp_path: Path, state: dict[str, Any]) -> None:
    a_run(tmp_path / "run", state=state)
    assert "Distribution" not in html_of(tmp_path / "run")


def test_a_plot_of_one_point_and_of_many() -> None:
    plot = Plot([1.0], [math.pi])
    plot.dots([(1.0, math.pi)])
    plot.limit(1.0, "a < b")
    assert "a &lt; b" in plot.svg("one", "one")
    many = Plot([0, 5000], [0, 1])
    many.line([(float(x), 0.5) for x in range(5001)], "#000")
    drawn = many.svg("many", "many", y_label="score")
    assert 200 <= drawn.count(",") <= 500
    assert number(math.nan) == number(None) == "–"
