"""The winner of a label-free search as a backbone: its file, its features, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import hwnas
from hwnas.backbone import features
from hwnas.cli import main
from hwnas.data import load_data
from hwnas.export import metadata_of
from hwnas.spaces import ConfigError, get_space, list_spaces

SPACE = "nasbench201(width=0.25,depth=0.2)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("runs") / "rotation"
    result = hwnas.search(
        SPACE,
        "digits",
        ["params <= 20K"],
        task="rotation",
        strategy="random",
        supernet_epochs=1,
        epochs=2,
        evaluations=3,
        limit=300,
        threads=1,
        run=folder,
    )
    assert result.trials == 3
    yield folder
    torch.set_num_threads(threads)


def test_its_file_ends_in_features(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--backbone", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["onnx"] == str(run / "backbone.onnx")
    assert 0.2 < found["accuracy"] <= 1
    model = onnx.load(found["onnx"])
    notes = metadata_of(model)
    assert (notes["task"], notes["output"], notes["input"]) == ("rotation", "features", "normalised")
    assert notes["task_accuracy"] == pytest.approx(found["accuracy"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    data = load_data("digits")
    images, labels = next(data.batches(data.test, 300))
    rows = [session.run(None, {"input": image[None].numpy()})[0][0] for image in images]
    assert len(rows[0]) == 16
    # what was learned without labels tells classes apart better than chance: nearest class means
    means = np.stack(
        [np.mean([r for r, y in zip(rows[:200], labels, strict=False) if y == k], axis=0) for k in range(10)]
    )
    nearest = ((np.stack(rows[200:])[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels[200:].numpy()).mean() > 0.2


def test_it_is_not_trained_twice(run: Path, tmp_path: Path) -> None:
    first = hwnas.export_backbone(run, measure=False)
    steps: list[float] = []
    again = hwnas.export_backbone(run, output=tmp_path / "b.onnx", progress=lambda done, *_: steps.append(done))
    assert not steps
    assert again.accuracy == first.accuracy
    assert again.latency_ms == {}  # the run had no latency constraint


def test_every_space_has_features() -> None:
    for name in list_spaces():
        space = get_space(name, resolution=8, channels=1, classes=3, width=0.25, depth=0.5)
        graph = space.lower(space.sample(1, np.random.default_rng(0))[0].tolist())
        cut = features(graph)
        (shape,) = [cut.shapes[output] for output in cut.outputs]
        assert shape[1] > 3
        assert 0 < cut.macs <= graph.macs


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--backbone", "--precision", "int8"]) == 2
    with pytest.raises(ConfigError, match="there is no run folder"):
        hwnas.export_backbone(tmp_path / "none")
