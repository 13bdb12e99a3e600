"""Export and int8 on trained networks of every space: what the file computes, and what it says about itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

import hwnas
from hwnas.data import load_data
from hwnas.data.base import Dataset
from hwnas.export import annotate, export_onnx, metadata_of, onnx_accuracy, onnx_logits, verify
from hwnas.quantize import METHODS, preparation, quantize_for_timing, quantize_onnx
from hwnas.spaces import Graph, get_space
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.onnx_reader import load_onnx
from hwnas.training import TrainConfig, evaluate, train

SPACES = ["mobilenet", "shufflenet", "nasbench201"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Trained:
    graph: Graph
    module: torch.nn.Module
    file: Path


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    found = {}
    for name in SPACES:
        space = get_space(name, resolution=8, channels=1, classes=10, width=0.2, depth=0.2)
        architecture = space.sample(1, np.random.default_rng(3))[0]
        graph = space.lower(architecture)
        torch.manual_seed(0)
        module = graph.to_module()
        train(module, digits, TrainConfig(epochs=6, precision="float32", device="cpu"))
        file = tmp_path_factory.mktemp("models") / f"{name}.onnx"
        metadata = {"space": space.spec, "architecture": architecture.tolist(), "measured_ms": 0.5, "device": "d"}
        export_onnx(graph, module, file, data=digits, metadata=metadata)
        found[name] = Trained(graph, module, file)
    return found


@pytest.mark.parametrize("name", SPACES)
def test_the_file_computes_what_torch_computes(name: str, trained: dict[str, Trained], digits: Dataset) -> None:
    one = trained[name]
    onnx.checker.check_model(str(one.file), full_check=True)
    session = ort.InferenceSession(str(one.file), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    hits, worst = 0, 0.0
    for images, labels in digits.batches(digits.test, 1):
        (logits,) = session.run(None, {entry.name: images.contiguous().numpy()})
        with torch.no_grad():
            expected = one.module(images).numpy()
        worst = max(worst, float(np.abs(logits - expected).max() / np.abs(expected).max()))
        hits += int(logits.argmax() == labels[0])
    assert worst < 1e-4
    verification = verify(one.file, digits, one.module)
    assert verification.images == 360
    assert verification.onnx_accuracy == hits / 360 == onnx_accuracy(one.file, digits)
    assert verification.torch_accuracy == evaluate(one.module, digits, digits.test).accuracy
    assert verification.relative_difference is not None
    assert verification.relative_difference < 1e-4
    assert verify(one.file, digits, one.module, limit=50).images == 50


def test_the_file_says_what_it_is(trained: dict[str, Trained], digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "copy.onnx"
    file.write_bytes(trained["mobilenet"].file.read_bytes())
    found = metadata_of(load_onnx(file))
    assert found["space"].startswith("mobilenet(")
    assert get_space(found["space"]).lower(found["architecture"]).params == trained["mobilenet"].graph.params
    assert found["version"] == hwnas.__version__
    assert found["precision"] == "float32"
    assert found["mean"] == list(digits.mean)
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert found["input"] == "normalised"
    assert found["accuracy"] == onnx_accuracy(file, digits)
    # what is known later is added later
    annotate(file, {"measured_ms": 0.25, "measured_interval_ms": [0.24, 0.26], "device": "cpu-onnxruntime", "x": None})
    later = metadata_of(load_onnx(file))
    assert later == {
        **found,
        "measured_ms": 0.25,
        "measured_interval_ms": [0.24, 0.26],
        "device": "cpu-onnxruntime",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["copy.onnx"]


def test_normalisation_can_be_part_of_the_file(trained: dict[str, Trained], digits: Dataset, tmp_path: Path) -> None:
    one, file = trained["shufflenet"], tmp_path / "pixels.onnx"
    verification = export_onnx(one.graph, one.module, file, data=digits, bake_normalisation=True)
    assert verification.onnx_accuracy == onnx_accuracy(one.file, digits)
    run, pixels = onnx_logits(file)
    assert pixels
    images = digits.test.images[:20]  # type: ignore[attr-defined]
    plain, takes_pixels = onnx_logits(one.file)
    assert not takes_pixels
    normalised = (images / 255 - np.array(digits.mean)) / np.array(digits.std)
    assert np.allclose(run(images.astype(np.float32)), plain(normalised.astype(np.float32)), atol=1e-4)


def test_a_network_that_computes_something_else_is_not_exported(
    trained: dict[str, Trained], digits: Dataset, tmp_path: Path
) -> None:
    one = trained["nasbench201"]

    class Scaled(torch.nn.Module):
        def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return one.module.state_dict()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return one.module(x) * 1.01  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="disagree"):
        export_onnx(one.graph, Scaled(), tmp_path / "a.onnx", data=digits)
    assert not list(tmp_path.iterdir())
    broken = dict(one.module.state_dict())
    name = next(key for key in broken if key.endswith("conv.weight"))
    broken[name] = broken[name] * float("nan")
    module = one.graph.to_module()
    module.load_state_dict(broken)
    with pytest.raises(ModelError, match="disagree"):
        export_onnx(one.graph, module, tmp_path / "a.onnx", data=digits)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        export_onnx(one.graph, one.module, tmp_path / "file" / "a.onnx", data=digits, limit=10)


# ---------------------------------------------------------------------- int8


@pytest.mark.parametrize("name", SPACES)
def test_int8_keeps_the_accuracy_and_the_metadata(
    name: str,
    trained: dict[str, Trained],
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    one, file = trained[name], tmp_path / "int8.onnx"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    report = quantize_onnx(one.file, file, data=digits)
    assert not list(scratch.iterdir())
    assert capfd.readouterr() == ("", "")
    assert report.int8_accuracy == onnx_accuracy(file, digits)
    assert report.float_accuracy == onnx_accuracy(one.file, digits)
    assert report.int8_accuracy > report.float_accuracy - 0.03
    assert (report.images, report.calibration_images, report.method) == (360, 256, "minmax")
    model = load_onnx(file)
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(np.prod(tensor.dims) for tensor in weights) > 0.8 * one.graph.params
    # two products of 7 bits by 8 fit in 16 bits, so no processor's sums overflow
    largest = max(np.abs(numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights)
    assert 60 <= largest <= 64
    # onnxruntime really computes in integers: the logits are others, the answers mostly the same
    pictures = next(iter(digits.batches(digits.test, 360)))[0].contiguous().numpy()
    before, after = onnx_logits(one.file)[0](pictures), onnx_logits(file)[0](pictures)
    assert 1e-4 < np.abs(before - after).max() < 0.5 * np.abs(before).max()
    before_text, after_text = metadata_of(load_onnx(one.file)), metadata_of(model)
    assert after_text["precision"] == "int8"
    assert after_text["accuracy"] == report.int8_accuracy
    assert "measured_ms" not in after_text
    assert after_text["calibration"] == "minmax, 256 training images"
    for key in ("space", "architecture", "device", "version", "mean", "classes", "input"):
        assert after_text[key] == before_text[key]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_calibration_method_works(
    method: str, trained: dict[str, Trained], digits: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "int8.onnx"
    report = quantize_onnx(trained["nasbench201"].file, file, data=digits, method=method, images=64, limit=100)
    assert capfd.readouterr() == ("", "")
    assert report.images == 100
    assert report.int8_accuracy > report.float_accuracy - 0.1
    assert report.int8_bytes == file.stat().st_size


def test_pixel_models_quantise_too(trained: dict[str, Trained], digits: Dataset, tmp_path: Path) -> None:
    one = trained["nasbench201"]
    export_onnx(one.graph, one.module, tmp_path / "pixels.onnx", data=digits, bake_normalisation=True)
    report = quantize_onnx(tmp_path / "pixels.onnx", tmp_path / "int8.onnx", data=digits)
    assert report.int8_accuracy > report.float_accuracy - 0.03


def test_a_model_is_quantised_for_timing_once() -> None:
    prepare = preparation("int8")
    assert prepare is not None
    first, second = (block.to_onnx() for block in get_space("mobilenet(resolution=8,width=0.25)").catalog[2:4])
    made = prepare(first)
    again, other = prepare(first), prepare(second)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)
    assert other.SerializeToString(deterministic=True) != made.SerializeToString(deterministic=True)
    assert preparation("float32") is None


def test_blocks_are_quantised_for_timing(capfd: pytest.CaptureFixture[str]) -> None:
    for name in SPACES:
        space = get_space(name, resolution=8, channels=1, classes=10, width=0.2, depth=0.2)
        for block in space.catalog[:: max(1, len(space.catalog) // 4)]:
            model = block.to_onnx(metadata={"hwnas.signature": block.signature})
            quantised = quantize_for_timing(model)
            onnx.checker.check_model(quantised, full_check=True)
            assert {e.key: e.value for e in quantised.metadata_props}["hwnas.signature"] == block.signature
            session = ort.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
            feed = {e.name: np.zeros(e.shape, dtype=np.float32) for e in session.get_inputs()}
            assert session.run(None, feed)[0].shape == next(block.shapes[output] for output in block.outputs)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_quantised_is_named(trained: dict[str, Trained], digits: Dataset, tmp_path: Path) -> None:
    file, out = trained["nasbench201"].file, tmp_path / "int8.onnx"
    with pytest.raises(ConfigError, match="'kl'"):
        quantize_onnx(file, out, data=digits, method="kl")
    with pytest.raises(ConfigError, match="at least one image"):
        quantize_onnx(file, out, data=digits, images=0)
    with pytest.raises(ModelError, match="cannot read"):
        quantize_onnx(tmp_path / "none.onnx", out, data=digits)
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\x80\x04junk")
    with pytest.raises(ModelError, match="not a"):
        quantize_onnx(junk, out, data=digits)
    quantize_onnx(file, out, data=digits, images=8, limit=10)
    with pytest.raises(ModelError, match="quantised already"):
        quantize_onnx(out, tmp_path / "again.onnx", data=digits)
    with pytest.raises(ModelError, match="takes inputs of 1x8x8, but the images are 1x16x16"):
        verify(file, load_data("digits", resolution=16))
