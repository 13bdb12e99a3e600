"""int8: static quantisation in QDQ form, calibrated on training images, its accuracy tested."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.data.base import Dataset, subset_indices
from hwnas.export import PREFIX, check_model, onnx_logits, set_metadata, verify
from hwnas.latency_tables import METHODS as LATENCY_METHODS
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.onnx_reader import load_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["METHODS", "QuantizeReport", "preparation", "quantize_for_timing", "quantize_onnx"]

#: metadata that is no longer true of the int8 file
STALE = tuple(PREFIX + key.replace("-", "_") for key in (*LATENCY_METHODS, "predicted", "accuracy", "method"))
#: Operators that onnxruntime's quantiser leaves out unless it is told to: a chip of integers would compute them, and
#: their constants, in floating point between two conversions.
ALSO = ("DepthToSpace", "Div", "PRelu", "Sub")
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


@dataclass(frozen=True)
class QuantizeReport:
    """What quantisation came to.

    Attributes
    ----------
    float_accuracy, int8_accuracy
        Shares of test images that onnxruntime gets right with either file, 0–1.
    float_bytes, int8_bytes
        Sizes of the files.
    calibration_images, method
        How the ranges of the activations were found.
    images
        How many test images were used.
    """

    float_accuracy: float
    int8_accuracy: float
    float_bytes: int
    int8_bytes: int
    calibration_images: int
    method: str
    images: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def quantize_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    data: Dataset,
    method: str = "minmax",
    images: int = 256,
    per_channel: bool = True,
    limit: int | None = None,
    seed: int = 0,
) -> QuantizeReport:
    """Quantise a float32 ONNX file to int8 weights and uint8 activations (static QDQ), and test both files.

    Weights have 7 of their 8 bits: x86 processors without 8-bit dot products (AVX2, no VNNI) add two products in
    16 bits, which full weights overflow, and the file is to be as accurate there as on any other.

    Parameters
    ----------
    source
        A float32 classifier that `hwnas.export.export_onnx` wrote, or any other with one input and one output.
    target
        The file to write, atomically. It keeps the metadata of `source` but for what int8 changes: measured and
        predicted latencies are left out, precision and accuracy are its own.
    data
        Training images calibrate, test images test.
    method
        ``minmax``, ``entropy`` or ``percentile``: how ranges are found.
    images
        Training images to calibrate on.
    per_channel
        One scale per output channel of a weight, which depthwise convolutions need.
    limit
        Test on so many images at most.
    seed
        Of the draw of the calibration images.

    Raises
    ------
    ConfigError
        If the method is unknown, or there is nothing to calibrate on.
    ModelError
        If `source` cannot be read, run or quantised.
    """
    if images < 1:
        raise ConfigError(f"calibration needs at least one image, not {images}")
    original = load_onnx(Path(source))
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in original.graph.node):
        raise ModelError(f"{source} is quantised already; give the float32 file")
    _, pixels = onnx_logits(original)
    before = verify(original, data, limit=limit)
    feeds = _training_images(data, original, pixels, images, seed)
    model = _quantise(original, feeds, method=method, per_channel=per_channel, reduce_range=True)
    used = min(images, len(data.train))
    for index in reversed(range(len(model.metadata_props))):
        if model.metadata_props[index].key.startswith(STALE):
            del model.metadata_props[index]
    set_metadata(model, {"precision": "int8", "calibration": f"{method}, {used} training images"})
    check_model(model)
    after = verify(model, data, limit=limit)
    set_metadata(model, {"accuracy": after.onnx_accuracy, "accuracy_images": after.images})
    raw = model.SerializeToString()
    atomic_write(target, raw)
    return QuantizeReport(
        float_accuracy=before.onnx_accuracy,
        int8_accuracy=after.onnx_accuracy,
        float_bytes=original.ByteSize(),
        int8_bytes=len(raw),
        calibration_images=used,
        method=method,
        images=after.images,
    )


def quantize_for_timing(model: ModelProto, *, samples: int = 4, seed: int = 0) -> ModelProto:
    """The int8 form of a model whose weights do not matter, such as a block that is profiled.

    Parameters
    ----------
    model
        Any float32 model with fixed shapes; its metadata are kept.
    samples
        Normally distributed inputs that stand in for images in the calibration.
    seed
        Of these inputs.

    Raises
    ------
    ModelError
        If onnxruntime cannot quantise it.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        entry.name: [axis.dim_value or 1 for axis in entry.type.tensor_type.shape.dim] for entry in model.graph.input
    }

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(samples):
            yield {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    # a block that begins with a pool or a concatenation gets bytes in its network, so it is to get them here
    made = _quantise(model, feeds(), method="minmax", per_channel=True, force_inputs=True)
    return made if any(node.op_type == "QuantizeLinear" for node in made.graph.node) else _between_bytes(made)


def _between_bytes(model: ModelProto) -> ModelProto:
    """What the quantiser leaves alone, such as a lone activation, with bytes before and after it, as in a network."""
    from onnx import helper, numpy_helper

    graph = model.graph
    # ±4 standard deviations of the inputs that stand in for images
    scale, zero = np.array(8 / 255, np.float32), np.array(128, np.uint8)
    constants: dict[str, np.ndarray] = {"hwnas/scale": scale, "hwnas/zero": zero}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    def pair(before: str, after: str) -> list[NodeProto]:
        quantised = f"{before}_QuantizeLinear_Output"
        return [
            helper.make_node("QuantizeLinear", [before, *constants], [quantised], f"{before}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [quantised, *constants], [after], f"{before}_DequantizeLinear"),
        ]

    inputs = {value.name: f"{value.name}_DequantizeLinear_Output" for value in graph.input}
    outputs = {value.name: f"{value.name}_QuantizeLinear_Input" for value in graph.output}
    for node in graph.node:
        node.input[:] = [inputs.get(name, outputs.get(name, name)) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    nodes = [*(pair(*names) for names in inputs.items()), list(graph.node)]
    nodes += [pair(inner, name) for name, inner in outputs.items()]
    kept = [node for part in nodes for node in part]
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _training_images(
    data: Dataset, model: ModelProto, pixels: bool, images: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """What calibrates: training images in batches of the model's size, classes in proportion."""
    entry = model.graph.input[0]
    fixed = entry.type.tensor_type.shape.dim[0].dim_value
    size = fixed or 32
    count = min(images, len(data.train))
    rng = np.random.default_rng([seed, count])
    split = data.train.take(rng.permutation(subset_indices(data.train.labels, count, rng)))
    for batch, _ in split.batches(size):
        if len(batch) == size or not fixed:
            fed = batch.float() if pixels else data.normalise(batch)
            yield {entry.name: np.ascontiguousarray(fed.numpy())}


def _quantise(
    model: ModelProto,
    feeds: Iterator[dict[str, np.ndarray]],
    *,
    method: str,
    per_channel: bool,
    reduce_range: bool = False,
    force_inputs: bool = False,
) -> ModelProto:
    """Static QDQ in a temporary folder: int8 weights, uint8 activations; the metadata come along."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if method not in METHODS:
        raise ConfigError(f"there is no calibration method called {method!r}; choose one of {', '.join(METHODS)}")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    with tempfile.TemporaryDirectory(prefix="hwnas-int8-") as folder, _quiet():
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        try:
            quant_pre_process(model, str(prepared))
            quantize_static(
                str(prepared),
                str(quantised),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry, *ALSO}),
                calibrate_method=getattr(CalibrationMethod, METHODS[method]),
                extra_options={"ForceQuantizeNoInputCheck": force_inputs},
            )
        except Exception as error:  # onnxruntime's tools raise plain exceptions of many kinds
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"onnxruntime cannot quantise the model: {reason[0]}") from error
        result = load_onnx(quantised)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice on pre-processing, which is done here, and its prints out of the user's output."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def preparation(file_precision: str) -> Callable[[ModelProto], ModelProto] | None:
    """What turns a float model into a file of a device's precision before it is timed; None if nothing has to."""
    return _KeptQuantised() if file_precision == "int8" else None


class _KeptQuantised:
    """Quantises for timing, once a model: the protocol opens it several times, and quantising takes seconds."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hwnas-int8-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __call__(self, model: ModelProto) -> ModelProto:
        path = Path(self._folder, sha256(model.SerializeToString(deterministic=True)).hexdigest())
        if not path.exists():
            atomic_write(path, quantize_for_timing(model).SerializeToString())
        return load_onnx(path)
