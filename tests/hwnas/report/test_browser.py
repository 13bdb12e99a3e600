"""The pages driven in headless Chromium: points and rows select, tables sort, nothing is logged or asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.compare import compare_devices
from hwnas.evaluators import Evaluation
from hwnas.report import serve, serve_report
from hwnas.spaces import get_space

pytest.importorskip("plotly", reason="the plots need plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
BROWSER = os.environ.get("HWNAS_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here, and HWNAS_BROWSER names no browser")

#: a machine with much other work takes long
SECONDS = 180
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
EVIL = '</script><img src="x" onerror="window.evil = 1"><b>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests; as root it does not start with its sandbox."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Tab:
    """A page, with everything that it logged and asked for."""

    def __init__(self, browser: Any, url: str, size: str = "desktop", scheme: str = "light") -> None:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(SECONDS * 1000)
        self.page = context.new_page()
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.logged.append(message.text))
        self.page.on("pageerror", lambda error: self.logged.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(".plot .main-svg")

    def until(self, expression: str) -> None:
        """Wait for it to hold; the page's policy forbids playwright to wait inside of it."""
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(100)

    def clean(self, url: str) -> None:
        """Nothing was logged, nothing but the page itself was asked for, nothing sticks out at the side."""
        assert self.logged == []
        assert [each for each in self.asked if not each.startswith(("data:", "blob:"))] == [url]
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def column(self, index: int) -> list[str]:
        """Texts of a column of the trials."""
        found = self.page.locator(f"#trials tbody tr td:nth-child({index})").all_inner_texts()
        return [str(text) for text in found]


def fill(folder: Path, count: int = 60) -> Path:
    space = get_space("nasbench201")
    settings = {"space": "nasbench201", "data": EVIL, "constraints": ["flops <= 60M"], "strategy": "random"}
    run = hwnas.Run.create(folder, settings, space=space.spec)
    rows = space.sample(count, np.random.default_rng(0)).tolist()
    for index, row in enumerate(rows):
        costs = {"flops": 1e6 * (20 + index), EVIL: float(index % 7)}
        run.add_trial(Evaluation(tuple(row), (index * 37 % count) / count, costs))
    cost = {"bound": 6e7, "predicted": 4e7, "checked": 4e7, "interval": None, "method": EVIL, "fits": True}
    run.add_finalist({"architecture": rows[0], "score": 0.5, "fits": True, "costs": {"flops <= 60M": cost}})
    run.close()
    return run.path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a written report."""
    return hwnas.report(fill(tmp_path_factory.mktemp("report") / "run")).html.as_uri()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_in_its_colours(browser: Any, report: str, size: str, scheme: str) -> None:
    tab = Tab(browser, report, size, scheme)
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate("[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))")
    paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    ink = tab.page.evaluate("getComputedStyle(document.querySelector('#plot-scatter .xtick text')).fill")
    assert ink == ("rgb(90, 102, 117)" if scheme == "light" else "rgb(152, 164, 179)")
    assert tab.page.evaluate("window.evil") is None
    tab.clean(report)


def test_the_colours_follow_the_reader(browser: Any, report: str) -> None:
    tab = Tab(browser, report)
    ink = "getComputedStyle(document.querySelector('#plot-scatter .xtick text')).fill"
    before = tab.page.evaluate(ink)
    tab.page.emulate_media(color_scheme="dark")
    tab.until(f"{ink} !== '{before}'")
    tab.clean(report)


def test_a_point_shows_its_architecture(browser: Any, report: str) -> None:
    tab = Tab(browser, report)
    assert tab.page.locator("#detail").is_hidden()
    tab.page.locator("#plot-scatter .scatterlayer .point").first.scroll_into_view_if_needed()
    box = tab.page.locator("#plot-scatter .scatterlayer .point").first.bounding_box()
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.wait_for_selector("#detail:not([hidden])")
    chosen = tab.page.locator("#chosen").inner_text()
    assert "edge0to1" in chosen
    assert "within the budget" in chosen
    assert EVIL in chosen  # as text
    tab.clean(report)


def test_trials_are_sorted_by_every_column(browser: Any, report: str) -> None:
    tab = Tab(browser, report)
    scores = [float(text) for text in tab.column(2)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 25
    tab.page.get_by_role("button", name="trial", exact=True).click()
    assert tab.column(1)[:3] == ["1", "2", "3"]
    assert tab.page.locator("#trials th").first.get_attribute("aria-sort") == "ascending"
    tab.page.keyboard.press("Enter")  # the button has kept the focus
    assert tab.column(1)[:2] == ["60", "59"]
    tab.page.locator("#more").click()
    assert len(tab.column(1)) == 60
    tab.page.locator("#trials tbody tr").nth(2).focus()
    tab.page.keyboard.press("Enter")
    assert "58" in tab.page.locator("#chosen dd").first.inner_text()
    tab.clean(report)


def test_axis_and_shares_are_switched(browser: Any, report: str) -> None:
    tab = Tab(browser, report)
    tab.page.locator("#axis button").nth(1).click()
    title = tab.page.locator("#plot-scatter .xtitle")
    assert title.text_content() == EVIL
    tab.page.locator("#which button").first.click()
    assert tab.page.locator("#which button").first.get_attribute("aria-pressed") == "true"
    tab.clean(report)


def test_a_served_report_keeps_the_readers_place(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REST", 0.0)
    folder = fill(tmp_path / "run")
    with serve_report(folder) as server:
        tab = Tab(browser, server.url)
        tab.page.get_by_role("button", name="trial", exact=True).click()
        tab.page.locator("#trials tbody tr").nth(4).click()
        tab.page.evaluate("scrollTo(0, 700)")
        with hwnas.Run.open(folder) as run:
            run.add_trial(Evaluation((1, 2, 3, 4, 0, 1), 0.99, {"flops": 3e7}))
        tab.until("document.querySelector('.facts').textContent.includes('61')")
        assert tab.page.evaluate("scrollY") == pytest.approx(700, abs=2)
        assert tab.column(1)[:3] == ["1", "2", "3"]
        assert tab.page.locator("#chosen dd").first.inner_text() == "5"
        assert tab.logged == []
        assert all(each.startswith((server.url, "data:", "blob:")) for each in tab.asked)


def test_a_comparison(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    monkeypatch.delenv("HWNAS_TABLES", raising=False)
    url = compare_devices(["cpu-onnxruntime", "vpu-npu4000"]).write_html(tmp_path / "devices.html").as_uri()
    for size in SIZES:
        tab = Tab(browser, url, size)
        table = tab.page.locator("#list table")
        table.get_by_role("button", name="apart").click()
        apart = [float(text) for text in table.locator("tbody tr td:last-child").all_inner_texts()]
        assert apart == sorted(apart, reverse=True)
        table.get_by_role("button", name="apart").click()
        assert [float(text) for text in table.locator("tbody tr td:last-child").all_inner_texts()] == apart[::-1]
        tab.clean(url)
