"""A served report: this machine only, always the run as it is."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

import hwnas
from hwnas.evaluators import Evaluation
from hwnas.report import serve, serve_report
from hwnas.report.page import plotly_source
from hwnas.spaces import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = hwnas.Run.create(tmp_path / "run", {"space": "nasbench201", "data": "digits", "constraints": []})
    run.add_trial(Evaluation((0, 1, 2, 3, 4, 0), 0.5))
    run.close()
    return run.path


def ask(url: str, **headers: str) -> tuple[int, str, str]:
    request = urllib.request.Request(url, headers={key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers.get("ETag", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), ""


def test_the_page_follows_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REST", 0.0)
    with serve_report(folder) as server:
        code, first, tag = ask(server.url)
        assert code == 200
        assert '"total":1' in first
        assert ask(server.url, If_None_Match=tag)[0] == 304
        with hwnas.Run.open(folder) as run:
            run.add_trial(Evaluation((0, 1, 2, 3, 4, 1), 0.6))
        code, second, _ = ask(server.url, If_None_Match=tag)
        assert code == 200
        assert '"total":2' in second
        with open(folder / "trials.jsonl", "a") as stream:
            stream.write("no JSON\n")
        code, text, _ = ask(server.url)
        assert code == 503
        assert "line 3" in text
    assert not (folder / "report.html").exists()


def test_nobody_else_is_served(folder: Path) -> None:
    with serve_report(folder) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert ask(server.url, Host="example.org")[0] == 403
        assert ask(f"{server.url}trials.jsonl")[0] == 404
        assert ask(f"{server.url}../run.toml")[0] == 404
        assert ask(f"{server.url}plotly.js")[0] == (200 if plotly_source() is not None else 404)


def test_a_port_that_is_taken(folder: Path) -> None:
    with serve_report(folder) as server, pytest.raises(ConfigError, match="choose another --port"):
        serve_report(folder, port=int(server.url.rstrip("/").rsplit(":", 1)[1]))
