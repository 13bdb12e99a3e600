"""Reports on runs that hold little, much, or something odd."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.evaluators import Evaluation
from hwnas.report import panels
from hwnas.report.drawing import draw_network
from hwnas.report.page import Page, plotly_source
from hwnas.report.trials import choice_shares, expected_best, pareto_front
from hwnas.report.words import number
from hwnas.spaces import ConfigError, get_space
from hwnas.strategies import make_strategy

SPACE = "nasbench201"


def a_run(
    folder: Path, space: str = SPACE, state: dict[str, Any] | None = None, count: int = 0, **settings: Any
) -> hwnas.Run:
    """A run folder; with `count` trials of made-up scores, the later the better."""
    given = {"space": space, "data": "digits", "constraints": ["flops <= 60M"], **settings}
    run = hwnas.Run.create(folder, given, space=get_space(SPACE).spec)
    rng = np.random.default_rng(0)
    for index, row in enumerate(get_space(SPACE).sample(count, rng).tolist()):
        run.add_trial(Evaluation(tuple(row), index / 1000, {"flops": float(rng.integers(2e7, 8e7))}))
    if state is not None:
        run.save_state(state)
    run.close()
    return run


def searched(name: str = "fpnas", **settings: Any) -> dict[str, Any]:
    strategy = make_strategy(name, get_space(SPACE), None, **settings)
    for _ in range(6):
        strategy.tell([Evaluation(a, float(sum(a))) for a in strategy.ask(8)])
    return {"told": 0, "strategy": strategy.state_dict()}


def html_of(folder: Path, **options: Any) -> str:
    """The page without plotly's own text, which has every word in it."""
    return hwnas.report(folder, **options).html.read_text().replace(plotly_source() or "", "")


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# ---------------------------------------------------------------------- what a run has


def test_an_empty_run(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    text = html_of(tmp_path / "run")
    assert "Not finished" in text
    assert "Distribution of the strategy" not in text
    assert data_of(text)["points"]["total"] == 0


def test_the_distribution_of_an_unfinished_run(tmp_path: Path) -> None:
    a_run(tmp_path / "run", state=searched(rate=1.0))
    text = html_of(tmp_path / "run")
    assert [len(trace["lines"]) for trace in data_of(text)["traces"]] == [1, 2, 1, 1]
    assert text.count('class="p"') == 30


def test_a_distribution_that_does_not_fit_is_said_to(tmp_path: Path) -> None:
    state = searched(rate=1.0)
    state["strategy"]["own"]["distribution"] = {"logits": [[0.0]]}
    a_run(tmp_path / "run", state=state)
    assert "do not fit the space" in html_of(tmp_path / "run")


@pytest.mark.parametrize("state", [{}, {"strategy": 3}, {"strategy": {"own": {"trace": 1}}}, {"strategy": {"own": 2}}])
def test_states_without_a_trace(tmp_path: Path, state: dict[str, Any]) -> None:
    a_run(tmp_path / "run", state=state)
    assert "Distribution of the strategy" not in html_of(tmp_path / "run")


def test_a_long_run_is_drawn_in_part_and_counted_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "MOST_POINTS", 100)
    a_run(tmp_path / "run", count=1000)
    html = html_of(tmp_path / "run")
    points = data_of(html)["points"]
    assert points["total"] == 1000
    assert len(points["index"]) == 100
    assert "100 of 1,000 trials" in html
    assert data_of(html)["choices"]["counts"][0] == 1000
    trials = hwnas.Run.open(tmp_path / "run", write=False).trials()
    fitting = [index for index, trial in enumerate(trials, start=1) if trial.costs["flops"] <= 60e6]
    assert points["index"][points["best"]] == fitting[-1]
    assert len(points["axes"][0]["front"]) >= 2


def test_numbers_that_are_none_and_evaluations_that_failed(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", count=3)
    with hwnas.Run.open(run.path) as opened:
        opened.add_trial(Evaluation((0, 1, 2, 3, 4, 0), math.nan, {"flops": math.nan}))
    html = html_of(tmp_path / "run")
    assert "1 evaluations failed" in html
    assert data_of(html)["points"]["score"][-1] is None
    assert number(math.nan) == number(None) == "–"


# ---------------------------------------------------------------------- random search


def test_the_best_of_some_draws_is_that_of_all_ways_to_draw() -> None:
    from itertools import combinations

    scores = np.array([0.3, 0.1, 0.9, 0.5, 0.5])
    mean, low, high = expected_best(scores, np.arange(1, 6))
    for k in range(1, 6):
        largest = sorted(max(part) for part in combinations(scores.tolist(), k))
        assert mean[k - 1] == pytest.approx(np.mean(largest))
        assert low[k - 1] == pytest.approx(np.quantile(largest, 0.1, method="inverted_cdf"))
        assert high[k - 1] == pytest.approx(np.quantile(largest, 0.9, method="inverted_cdf"))


def test_the_first_population_stands_for_random_search(tmp_path: Path) -> None:
    state = searched("evolution", population=16, mutants=8, crossovers=8)
    a_run(tmp_path / "run", state=state, count=48, strategy="evolution")
    progress = data_of(html_of(tmp_path / "run"))["progress"]
    assert progress["random"]["x"][-1] == 16
    assert "first 16 trials" in progress["note"]


@pytest.mark.parametrize("settings", [{"strategy": "fpnas"}, {"strategy": "evolution", "jobs": 2}])
def test_a_run_without_uniform_draws_invents_none(tmp_path: Path, settings: dict[str, Any]) -> None:
    a_run(tmp_path / "run", state=searched(settings["strategy"]), count=48, **settings)
    progress = data_of(html_of(tmp_path / "run"))["progress"]
    assert progress["random"] is None
    assert "--against" in progress["note"]


def test_a_random_search_to_compare_with(tmp_path: Path) -> None:
    a_run(tmp_path / "run", count=20, strategy="evolution")
    a_run(tmp_path / "random", count=60, strategy="random", seed=3)
    progress = data_of(html_of(tmp_path / "run", against=tmp_path / "random"))["progress"]
    assert progress["random"]["x"][-1] == 60
    assert "60 random trials" in progress["note"]


def test_runs_that_do_not_compare(tmp_path: Path) -> None:
    a_run(tmp_path / "run", count=5)
    a_run(tmp_path / "same", count=5)
    a_run(tmp_path / "other", count=5, strategy="random", evaluator="scratch")
    with pytest.raises(ConfigError, match="strategy evolution, not random"):
        hwnas.report(tmp_path / "run", against=tmp_path / "same")
    with pytest.raises(ConfigError, match=r"evaluator is None in .* and 'scratch'"):
        hwnas.report(tmp_path / "run", against=tmp_path / "other")


# ---------------------------------------------------------------------- parts


def test_a_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 2.0, 3.0, np.nan]), np.array([0.1, 0.4, 0.5, 0.3, 0.9])
    assert pareto_front(cost, score).tolist() == [0, 2]
    assert pareto_front(cost, score, lower=False).tolist() == [2, 3]
    assert pareto_front(cost[:0], score[:0]).tolist() == []


def test_shares_count_only_what_has_an_effect() -> None:
    rows, live = np.array([[0, 1], [0, 0], [1, 0]]), np.array([[True, False], [True, False], [True, False]])
    first, second = choice_shares(rows, np.array([2, 2]), live)
    assert first.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(second).all()


def test_repeated_cells_are_drawn_once() -> None:
    space = get_space(SPACE)
    graph = space.lower((2, 2, 1, 1, 2, 4))
    drawing = draw_network(graph, {block.signature: 1.0 for block in graph.blocks}, "measured")
    assert drawing.count("×5</text>") == 3
    assert drawing.count("<g>") < len(graph.pruned().blocks) / 2
    chain = get_space("mobilenet(depth=0.25)")
    blocks = chain.lower((0,) * len(chain.decisions)).blocks
    drawing = draw_network(chain.lower((0,) * len(chain.decisions)), {blocks[0].signature: 0.5}, "measured")
    assert drawing.count("<g>") == len(blocks)
    assert "0.5 ms" in drawing


# ---------------------------------------------------------------------- text from files


def test_text_from_a_run_folder_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    run = a_run(tmp_path / "run", count=4, strategy=evil, note=[evil])
    with hwnas.Run.open(run.path) as opened:
        trial = opened.trials()[0]
        opened.add_trial(replace(trial, costs={evil: 1.0}))
        costs = {evil: {"predicted": 1.0, "checked": 2.0, "method": evil, "interval": [evil, evil]}}
        opened.add_finalist({"architecture": [evil], "score": 1.0, "costs": costs, "fits": True})
        opened.save_best({"architecture": [evil], "accuracy": evil, "costs": costs, "choices": {evil: evil}})
    html = html_of(tmp_path / "run")
    assert "<img src=x" not in html
    assert "<script>alert" not in html
    assert html.count("</script>") == 3


def test_only_our_own_scripts_are_allowed() -> None:
    import base64
    import hashlib

    html = Page("a page", "<p>words</p>", {"text": "<!--<script>"}).html()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    bodies = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    allowed = {base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies}
    assert set(re.findall(r"'sha256-([^']+)'", policy[1])) == allowed
    assert "<!--" not in html.split("<body>")[1].replace("<\\!--", "")


def test_without_plotly_words_and_tables_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    plotly_source.cache_clear()
    try:
        a_run(tmp_path / "run", count=20)
        html = html_of(tmp_path / "run")
    finally:
        plotly_source.cache_clear()
    assert 'pip install "hwnas[report]"' in html
    assert 'class="plot"' not in html
    assert len(html) < 100_000
    assert data_of(html)["points"]["total"] == 20
