"""Checkpoint files: what goes in comes out, and nothing else is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.training import load_checkpoint, load_weights, save_checkpoint


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    tensors = {
        "model.weight": shared,
        "model.tied": shared,  # safetensors alone refuses tensors that share memory
        "model.view": shared.t(),
        "model.steps": torch.tensor(7),
        "momentum.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    }
    meta = {"epoch": 3, "history": [{"loss": 0.1}], "name": "ü"}
    path = save_checkpoint(tmp_path / "deep" / "a.safetensors", tensors, meta)
    found, info = load_checkpoint(path)
    assert info == meta
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert load_weights(path).keys() == {"weight", "tied", "view", "steps"}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="cannot read"):
        load_checkpoint(path)
    for content, words in (
        (pickle.dumps({"a": 1}), "a pickle, which hwnas never opens"),
        (b"", "cut short"),
        (b"no checkpoint at all", "not a safetensors file"),
        ((2**62).to_bytes(8, "little") + b'{"a":1}' * 10, "not a safetensors file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            load_checkpoint(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="pickle"):
        load_checkpoint(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a.safetensors", {"model.w": torch.randn(100)}, {"epoch": 1})
    raw = path.read_bytes()
    for cut in (4, 20, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:cut])
        with pytest.raises(ModelError):
            load_checkpoint(path)
    path.write_bytes(raw[:20] + b"\xff" * 20 + raw[40:])
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)
    from safetensors.torch import save_file

    save_file({"model.w": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not a checkpoint of this hwnas"):
        load_checkpoint(path)
    save_checkpoint(path, {"other": torch.zeros(1)}, {})
    with pytest.raises(ModelError, match="no weights"):
        load_weights(path)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot create the folder"):
        save_checkpoint(tmp_path / "file" / "a.safetensors", {"w": torch.zeros(1)}, {})
