"""Workloads of the NPU's tensor unit, and the descriptors by which Intel's cost networks know them.

A descriptor is a row of numbers: sizes as they are, kinds as one-hot groups. The order of the fields, the kinds of
each version and the replacements for what a network never saw are facts of intel/npu-nn-cost-model (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.profilers.vpunn.network import CostNetwork
from hwnas.spaces.errors import ConfigError, ModelError

__all__ = ["DESCRIPTORS", "Workload", "cycles", "describe"]

Columns = NDArray[np.float32]


class Workload(NamedTuple):
    """What one tensor unit (DPU) computes without a break. Sizes are (width, height, channels), batch 1.

    Attributes
    ----------
    operation
        ``CONVOLUTION``, ``DW_CONVOLUTION``, ``CM_CONVOLUTION`` (few input channels), ``ELTWISE``, ``ELTWISE_MUL``,
        ``MAXPOOL``, ``AVEPOOL`` or ``LAYER_NORM``.
    input, output
        Sizes of the activations.
    kernel, stride
        (width, height).
    padding
        (top, bottom, left, right).
    input_type, output_type, weight_type
        ``UINT8``, ``FLOAT16``, ...
    mode
        How the grid of multipliers is used, such as ``CUBOID_16x16``.
    strategy
        ``CLUSTERING``, ``SPLIT_OVER_H`` or ``SPLIT_OVER_K``: how the layer was divided among tiles.
    write_tiles
        To how many tiles the output is written.
    sparsity
        Share of weights that are zero and left out; None where the weights are stored densely.
    """

    operation: str
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    input_type: str = "FLOAT16"
    output_type: str = "FLOAT16"
    weight_type: str = "FLOAT16"
    mode: str = "CUBOID_16x16"
    strategy: str = "CLUSTERING"
    write_tiles: int = 1
    sparsity: float | None = None


_CUBOIDS = ("CUBOID_16x16", "CUBOID_8x16", "CUBOID_4x16")
_STRATEGIES = ("CLUSTERING", "SPLIT_OVER_H", "SPLIT_OVER_K")
_DEVICES = ("VPU_2_0", "VPU_2_1", "VPU_2_7", "VPU_4_0")
_LAYOUTS = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")
_SWIZZLINGS = ("KEY_0", "KEY_1", "KEY_2", "KEY_3", "KEY_4", "KEY_5")
_OPERATIONS = ("CONVOLUTION", "DW_CONVOLUTION", "ELTWISE", "MAXPOOL", "AVEPOOL", "CM_CONVOLUTION")
_OPERATIONS_51 = (
    "CONVOLUTION",
    "DW_CONVOLUTION",
    "ELTWISE",
    "ELTWISE_MUL",
    "MAXPOOL",
    "CM_CONVOLUTION",
    "LAYER_NORM",
)
_TYPES = ("UINT8", "INT8", "FLOAT16", "BFLOAT16")
_TYPES_51 = ("UINT8", "FLOAT16", "HF8", "FLOAT32", "UINT4")
#: what stands in for kinds that a network was not trained on
_STANDINS = {"AVEPOOL": "DW_CONVOLUTION", "ELTWISE_MUL": "ELTWISE", "LAYER_NORM": "ELTWISE"}
_STANDINS_51 = {"AVEPOOL": "DW_CONVOLUTION"}
_TYPE_STANDINS = {"INT8": "UINT8", "BFLOAT16": "FLOAT16"}
_TYPE_STANDINS_27 = {**_TYPE_STANDINS, "HF8": "UINT8", "BF8": "UINT8", "FLOAT32": "FLOAT16", "INT32": "FLOAT16"}
_TYPE_STANDINS_51 = {**_TYPE_STANDINS, "BF8": "HF8", "INT32": "FLOAT16", "INT4": "UINT4"}
#: the hardware fills up fewer channels to so many
_PADDED = 16


def _one_hot(values: Sequence[str], known: tuple[str, ...], standins: Mapping[str, str], what: str) -> Columns:
    columns = np.zeros((len(values), len(known)), np.float32)
    index = {name: place for place, name in enumerate(known)}
    try:
        places = [index[standins.get(value, value)] for value in values]
    except KeyError as error:
        raise ConfigError(f"this cost network knows no {what} {error.args[0]}; it knows {', '.join(known)}") from None
    columns[np.arange(len(values)), places] = 1
    return columns


def _numbers(rows: Sequence[Sequence[float]]) -> Columns:
    return np.array(rows, np.float32).reshape(len(rows), -1)


def _same(known: tuple[str, ...], value: str, count: int) -> Columns:
    return _one_hot([value] * count, known, {}, "kind")


def _geometry(workloads: Sequence[Workload]) -> Columns:
    """Kernel, stride and padding: 8 numbers, in one order in all versions."""
    return _numbers([(*w.kernel, *w.stride, *w.padding) for w in workloads])


def _sparsities(workloads: Sequence[Workload]) -> Columns:
    """Share of zero activations (never used here) and of zero weights."""
    return _numbers([(0.0, w.sparsity or 0.0) for w in workloads])


def _describe_10(workloads: Sequence[Workload]) -> list[Columns]:
    """Version 10, 67 numbers: Keem Bay."""
    count = len(workloads)
    modes = ("VECTOR", "MATRIX", "VECTOR_FP16", *_CUBOIDS)

    def tensor(sizes: Sequence[tuple[int, int, int]], types: Sequence[str]) -> list[Columns]:
        return [_numbers([(*size, 1) for size in sizes]), _one_hot(types, _TYPES, _TYPE_STANDINS, "type")]

    return [
        _same(_DEVICES, "VPU_2_0", count),
        _one_hot([w.operation for w in workloads], _OPERATIONS, _STANDINS, "operation"),
        *tensor([w.input for w in workloads], [w.input_type for w in workloads]),
        *tensor([w.output for w in workloads], [w.output_type for w in workloads]),
        _geometry(workloads),
        _one_hot([w.mode for w in workloads], modes, {}, "mode"),
        _same(("NONE", "RELU", "LRELU", "ADD", "SUB", "MULT"), "NONE", count),  # activations cost nothing
        _sparsities(workloads),
        *[_same(_SWIZZLINGS, "KEY_0", count)] * 3,
        _numbers([(w.write_tiles,) for w in workloads]),
    ]


def _weights_11(workload: Workload, alignment: int) -> tuple[int, int, int, int]:
    """Sizes of the weights as (width, height, channels, batch); `alignment` is that of 8-bit weights."""
    columns, rows = workload.kernel
    wide = workload.input_type in ("FLOAT16", "BFLOAT16", "FLOAT32", "INT32")
    if workload.operation == "MAXPOOL":
        return 0, 0, 0, 0
    if workload.operation in ("ELTWISE", "ELTWISE_MUL"):
        width, height, channels = workload.input
        return height, channels, width, 1
    taps = columns * rows
    if workload.operation not in ("DW_CONVOLUTION", "AVEPOOL"):
        taps *= workload.input[2]
    if workload.operation == "CM_CONVOLUTION":
        multiple = 8 if wide else 16
    else:
        multiple = 16 if wide or workload.sparsity is not None else alignment
    return 1, 1, -(-taps // multiple) * multiple, workload.output[2]


def _trained_27(workload: Workload) -> tuple[str, int]:
    """Strategy and tiles written to, as Meteor Lake's network was trained on them."""
    strategy, tiles = workload.strategy, workload.write_tiles
    if strategy == "SPLIT_OVER_H" and workload.kernel[1] == 1:
        strategy = "CLUSTERING"
    if strategy == "CLUSTERING" and tiles > 1:
        strategy = "SPLIT_OVER_K"
    if strategy == "SPLIT_OVER_K" and workload.operation == "ELTWISE":
        strategy, tiles = "CLUSTERING", 1
    return strategy, min(tiles, 2)


def _trained_40(workload: Workload) -> tuple[str, int]:
    """Strategy and tiles written to, as Lunar Lake's network was trained on them."""
    split = workload.strategy == "SPLIT_OVER_K" or workload.write_tiles > 1
    return ("SPLIT_OVER_K" if split else "CLUSTERING"), min(workload.write_tiles, 6)


def _describe_11(device: str, alignment: int, trained: Callable[[Workload], tuple[str, int]]) -> _Describe:
    """Version 11 and its successors, 93 numbers: Meteor Lake and Lunar Lake."""
    layouts = (*_LAYOUTS, "INVALID")

    def describe(workloads: Sequence[Workload]) -> list[Columns]:
        count = len(workloads)
        types = _one_hot([w.input_type for w in workloads], _TYPES, _TYPE_STANDINS_27, "type")
        dense, plain = np.zeros((count, 1), np.float32), _same(layouts, "ZXY", count)
        weightless = [w.operation == "MAXPOOL" for w in workloads]
        swizzled = _same(_SWIZZLINGS, "KEY_5", count)
        placed = [trained(w) for w in workloads]
        return [
            _same(_DEVICES, device, count),
            _one_hot([w.operation for w in workloads], _OPERATIONS, _STANDINS, "operation"),
            _numbers([(*w.input, 1) for w in workloads]),
            types,
            plain,
            dense,
            _numbers([_weights_11(w, alignment) for w in workloads]),
            types,
            _one_hot(["INVALID" if none else "ZXY" for none in weightless], layouts, {}, "layout"),
            _numbers([(w.sparsity is not None,) for w in workloads]),
            _numbers([(*w.output, 1) for w in workloads]),
            _one_hot([w.output_type for w in workloads], _TYPES, _TYPE_STANDINS_27, "type"),
            plain,
            dense,
            _geometry(workloads),
            _one_hot([w.mode for w in workloads], _CUBOIDS, {}, "mode"),
            _sparsities(workloads),
            swizzled,
            _one_hot(["KEY_0" if none else "KEY_5" for none in weightless], _SWIZZLINGS, {}, "swizzling"),
            swizzled,
            _numbers([(tiles,) for _, tiles in placed]),
            _one_hot([strategy for strategy, _ in placed], _STRATEGIES, {}, "strategy"),
        ]

    return describe


def _describe_51(workloads: Sequence[Workload]) -> list[Columns]:
    """Version 5114, 53 numbers: Panther Lake."""

    def tensor(sizes: Sequence[tuple[int, int, int]], types: Sequence[str]) -> list[Columns]:
        filled = [(width, height, max(channels, _PADDED), 1) for width, height, channels in sizes]
        return [_numbers(filled), _one_hot(types, _TYPES_51, _TYPE_STANDINS_51, "type")]

    count = len(workloads)
    return [
        _one_hot([w.operation for w in workloads], _OPERATIONS_51, _STANDINS_51, "operation"),
        *tensor([w.input for w in workloads], [w.input_type for w in workloads]),
        _one_hot([w.weight_type for w in workloads], _TYPES_51, _TYPE_STANDINS_51, "type"),
        *tensor([w.output for w in workloads], [w.output_type for w in workloads]),
        _geometry(workloads),
        _one_hot([w.mode for w in workloads], _CUBOIDS, {}, "mode"),
        _sparsities(workloads),
        _numbers([(min(w.write_tiles, 2),) for w in workloads]),
        _same(_LAYOUTS, "ZXY", count),
        np.zeros((count, 3), np.float32),  # output in place of an input, no second input, packed output
    ]


_Describe = Callable[[Sequence[Workload]], list[Columns]]

#: Numbers in a descriptor, and what writes its columns, by version.
DESCRIPTORS: dict[int, tuple[int, _Describe]] = {
    10: (67, _describe_10),
    11: (93, _describe_11("VPU_2_7", 16, _trained_27)),
    4011: (93, _describe_11("VPU_4_0", 32, _trained_40)),
    4111: (93, _describe_11("VPU_4_0", 32, _trained_40)),
    5114: (53, _describe_51),
}


def describe(version: int, workloads: Sequence[Workload]) -> Columns:
    """Descriptors of workloads, (n, size of the version), float32.

    Raises
    ------
    ConfigError
        If there is no such version, or it does not know a kind of operation, type or mode.
    """
    if version not in DESCRIPTORS:
        known = ", ".join(map(str, DESCRIPTORS))
        raise ConfigError(f"there is no reader of descriptors of version {version}; there are {known}")
    size, write = DESCRIPTORS[version]
    if not workloads:
        return np.zeros((0, size), np.float32)
    return np.hstack(write(workloads))


def cycles(network: CostNetwork, workloads: Sequence[Workload]) -> NDArray[np.float64]:
    """Cycles of workloads on the device that the network was trained for, whole numbers.

    Raises
    ------
    ConfigError
        If the network takes another descriptor, or does not know a kind.
    ModelError
        If the network gives what cannot be cycles.
    """
    descriptors = describe(network.descriptor, workloads)
    if descriptors.shape[1] != network.inputs:
        raise ConfigError(
            f"{network.name} takes {network.inputs} numbers, but descriptors of version {network.descriptor} "
            f"have {descriptors.shape[1]}; the file is damaged"
        )
    found = np.ceil(network.predict(descriptors)).astype(np.float64)
    if not ((found >= 0) & (found <= 4e9)).all():  # Intel's own limits
        raise ModelError(f"{network.name} gives between {found.min()} and {found.max()} cycles, which cannot be")
    return found
