"""Export: a trained network as an ONNX file that was checked, compared with torch, and says what it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.data.base import Dataset, Split
from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from hwnas.spaces.graph import Graph

__all__ = [
    "PREFIX",
    "Verification",
    "annotate",
    "check_model",
    "data_metadata",
    "export_onnx",
    "metadata_of",
    "onnx_accuracy",
    "onnx_logits",
    "set_metadata",
    "verify",
]

#: every key that hwnas writes into a model's metadata begins so
PREFIX = "hwnas."
#: what a model takes: normalised values, or pixels as they are
NORMALISED, PIXELS = "normalised", "pixels 0-255"
RELATIVE = 1e-3


@dataclass(frozen=True)
class Verification:
    """An ONNX file compared with the torch network it was written from, on the same images.

    Attributes
    ----------
    torch_accuracy, onnx_accuracy
        Shares of right answers, 0–1; torch's is None where there was no network to compare with.
    max_difference
        Largest absolute difference of two logits.
    relative_difference
        The same, divided by the largest logit.
    images
        How many images were compared.
    """

    torch_accuracy: float | None
    onnx_accuracy: float
    max_difference: float | None
    relative_difference: float | None
    images: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def export_onnx(
    graph: Graph,
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    data: Dataset,
    metadata: Mapping[str, Any] | None = None,
    bake_normalisation: bool = False,
    limit: int | None = None,
    tolerance: float = RELATIVE,
) -> Verification:
    """Write a trained network as ONNX: float32, BatchNorm folded, opset 17.

    The model is checked with ``onnx.checker``, run by onnxruntime on the test images, and written only when its
    logits agree with torch's.

    Parameters
    ----------
    graph
        The network's wiring.
    module
        ``graph.to_module()`` with trained weights.
    path
        The file to write, atomically.
    data
        Test images to compare on, and the normalisation that goes into the metadata.
    metadata
        Further texts, numbers or lists for the file, keys with or without ``hwnas.``: space, architecture,
        device, constraint, predicted_ms, predicted_interval_ms, measured_ms, method ...
    bake_normalisation
        Write the subtraction of the mean and the division by the standard deviation into the model, which
        then takes pixels (float32, 0–255) instead of normalised values.
    limit
        Compare on so many test images at most.
    tolerance
        Largest difference of two logits, relative to the largest logit.

    Raises
    ------
    ModelError
        If onnxruntime and torch disagree, or the model does not pass the checker.
    ConfigError
        If the file cannot be written.
    """
    from hwnas import __version__

    model = graph.to_onnx(module.state_dict())
    if bake_normalisation:
        _bake(model, data)
    texts = {"version": __version__, "precision": "float32", **(metadata or {}), **data_metadata(data)}
    texts["input"] = PIXELS if bake_normalisation else NORMALISED
    set_metadata(model, texts)
    check_model(model)
    verification = verify(model, data, module, limit=limit, tolerance=tolerance)
    set_metadata(model, {"accuracy": verification.onnx_accuracy, "accuracy_images": verification.images})
    atomic_write(path, model.SerializeToString())
    return verification


def data_metadata(data: Dataset) -> dict[str, Any]:
    """What whoever runs the model must know of its data: name, normalisation, classes."""
    return {"data": data.name, "mean": list(data.mean), "std": list(data.std), "classes": list(data.class_names)}


def _bake(model: ModelProto, data: Dataset) -> None:
    """Put ``(x - mean) / std`` in front of the graph; x are pixels from 0 to 255."""
    from onnx import helper, numpy_helper

    shape = (1, data.channels, 1, 1)
    mean = 255 * np.array(data.mean, dtype=np.float32).reshape(shape)
    scale = 1 / (255 * np.array(data.std, dtype=np.float32).reshape(shape))
    source = model.graph.input[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == source:
                node.input[index] = "normalise"
    model.graph.initializer.append(numpy_helper.from_array(mean, "normalise/mean"))
    model.graph.initializer.append(numpy_helper.from_array(scale, "normalise/scale"))
    model.graph.node.insert(
        0, helper.make_node("Sub", [source, "normalise/mean"], ["normalise/centred"], "normalise/sub")
    )
    model.graph.node.insert(
        1, helper.make_node("Mul", ["normalise/centred", "normalise/scale"], ["normalise"], "normalise")
    )


# ---------------------------------------------------------------------- metadata


def set_metadata(model: ModelProto, texts: Mapping[str, Any]) -> None:
    """Write metadata into a model: keys with or without ``hwnas.``; numbers and lists as JSON, None not at all."""
    known = {entry.key: entry for entry in model.metadata_props}
    for key, value in texts.items():
        if value is None:
            continue
        key = key if key.startswith(PREFIX) else PREFIX + key
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if key not in known:
            known[key] = model.metadata_props.add(key=key)
        known[key].value = text


def metadata_of(model: ModelProto) -> dict[str, Any]:
    """What hwnas wrote into a model, without ``hwnas.`` before the keys; numbers and lists as such."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key.startswith(PREFIX):
            try:
                found[entry.key.removeprefix(PREFIX)] = json.loads(entry.value)
            except ValueError:
                found[entry.key.removeprefix(PREFIX)] = entry.value
    return found


def annotate(path: str | os.PathLike[str], texts: Mapping[str, Any]) -> None:
    """Add to the metadata of an ONNX file, such as what was measured on a device; written atomically.

    Raises
    ------
    ModelError
        If the file is not an ONNX model.
    """
    from hwnas.spaces.onnx_reader import load_onnx

    model = load_onnx(Path(path))
    set_metadata(model, texts)
    atomic_write(path, model.SerializeToString())


def check_model(model: ModelProto) -> None:
    """Run ``onnx.checker`` with type and shape inference.

    Raises
    ------
    ModelError
        With the checker's first line.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the ONNX model is not valid: {str(error).strip().splitlines()[0]}") from error


# ---------------------------------------------------------------------- running


def verify(
    model: ModelProto | bytes | str | os.PathLike[str],
    data: Dataset,
    module: nn.Module | None = None,
    *,
    split: Split | None = None,
    limit: int | None = None,
    tolerance: float | None = RELATIVE,
) -> Verification:
    """Run a model with onnxruntime on test images, and the torch network on the same.

    Parameters
    ----------
    model
        The model or its file.
    data
        Images; the test split, unless `split` is given.
    module
        The torch network; without it only the model's accuracy is found.
    limit
        Use so many images at most.
    tolerance
        Largest difference of two logits, relative to the largest; None accepts any (int8).

    Raises
    ------
    ModelError
        If the difference is larger, or onnxruntime cannot run the model.
    """
    split = _limited(split or data.test, limit)
    onnx_hits = torch_hits = images = 0
    difference, largest = 0.0, 0.0
    for _, labels, ours, theirs in _outputs(model, data, split, module):
        onnx_hits += int((ours.argmax(1) == labels).sum())
        images += len(labels)
        if theirs is not None:
            torch_hits += int((theirs.argmax(1) == labels).sum())
            gap = float(np.abs(ours - theirs).max())
            difference = gap if math.isnan(gap) else max(difference, gap)
            largest = max(largest, float(np.abs(theirs).max()))
    if module is None:
        return Verification(None, onnx_hits / images, None, None, images)
    relative = difference / max(largest, 1e-12)
    if tolerance is not None and not relative <= tolerance:
        raise ModelError(
            f"onnxruntime and torch disagree on this network: logits differ by {difference:.3g}, "
            f"{relative:.2g} of the largest, where {tolerance:g} is allowed"
        )
    return Verification(torch_hits / images, onnx_hits / images, difference, relative, images)


def onnx_accuracy(model: ModelProto | bytes | str | os.PathLike[str], data: Dataset, limit: int | None = None) -> float:
    """Share of the test images that onnxruntime gets right with a model, 0–1."""
    return verify(model, data, limit=limit).onnx_accuracy


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    from hwnas.data.base import subset_indices

    return split.take(subset_indices(split.labels, limit, np.random.default_rng(limit)))


def _outputs(
    model: Any, data: Dataset, split: Split, module: nn.Module | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Pixels, labels, onnxruntime's logits and torch's, batch by batch."""
    import torch

    run, pixels = onnx_logits(model)
    device = torch.device("cpu")
    if module is not None:
        device = next((parameter.device for parameter in module.parameters()), device)
        module.eval()
    for images, labels in split.batches(250):
        inputs = data.normalise(images)
        theirs = None
        if module is not None:
            with torch.inference_mode():
                theirs = module(inputs.to(device)).float().cpu().numpy()
        fed = images.float() if pixels else inputs
        yield images.numpy(), labels.numpy(), run(np.ascontiguousarray(fed.numpy())), theirs


def onnx_logits(model: ModelProto | bytes | str | os.PathLike[str]) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """A function that runs a classifier with onnxruntime, and whether it takes pixels (0–255) or normalised values.

    The function takes float32 ``(N, C, H, W)`` and gives logits ``(N, classes)``, in batches of the size that the
    model was written for.

    Raises
    ------
    ModelError
        If onnxruntime cannot load the model, or it is not a classifier with one input and one output; the function,
        if the images do not fit.
    """
    import onnxruntime as ort

    from hwnas.spaces.onnx_reader import load_onnx

    proto = load_onnx(Path(model)) if isinstance(model, (str, os.PathLike)) else model
    raw = proto if isinstance(proto, bytes) else proto.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise ModelError(f"onnxruntime cannot load the model: {str(error).strip().splitlines()[0]}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
    name, size = inputs[0].name, inputs[0].shape[0]
    pixels = session.get_modelmeta().custom_metadata_map.get(f"{PREFIX}input") == PIXELS

    def run(batch: np.ndarray) -> np.ndarray:
        wanted = inputs[0].shape[1:]
        if len(wanted) != 3 or any(
            isinstance(w, int) and w != got for w, got in zip(wanted, batch.shape[1:], strict=True)
        ):
            takes, given = ("x".join(map(str, shape)) for shape in (wanted, batch.shape[1:]))
            raise ModelError(f"the model takes inputs of {takes}, but the images are {given}; name its own data set")
        step = size if isinstance(size, int) else len(batch)
        parts: Sequence[np.ndarray] = [
            session.run(None, {name: batch[start : start + step]})[0] for start in range(0, len(batch), step)
        ]
        return np.concatenate(parts)

    return run, pixels
