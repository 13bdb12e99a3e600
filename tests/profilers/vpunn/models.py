"""Small cost networks with random weights, in the files' own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import flatbuffers
import numpy as np
from numpy.typing import NDArray

Layer = tuple[NDArray[np.float32], NDArray[np.float32] | None, bool]


def random_layers(*sizes: int, seed: int = 0) -> list[Layer]:
    """Weights (outputs, inputs), bias, and whether ReLU follows; from `sizes[0]` numbers to a positive one."""
    random = np.random.default_rng(seed)
    layers: list[Layer] = []
    for inputs, outputs in pairwise(sizes):
        weights = random.normal(0, 0.1, (outputs, inputs)).astype(np.float32)
        layers.append((weights, random.normal(0, 1, outputs).astype(np.float32), True))
    weights, bias, _ = layers[-1]
    assert bias is not None
    layers[-1] = (abs(weights), abs(bias) + 10, False)
    return layers


def write_network(path: Path, layers: Sequence[Layer], name: str = "VPUNN-11-02") -> Path:
    """Write a file as Intel does."""
    builder = flatbuffers.Builder(1024)
    buffers = [_table(builder, {0: _bytes(builder, b"")})]  # the first buffer is that of what is not stored
    tensors: list[int] = []
    operators: list[int] = []

    def tensor(shape: Sequence[int], stored: NDArray[np.float32] | None = None) -> int:
        if stored is not None:
            buffers.append(_table(builder, {0: _bytes(builder, stored.astype("<f4").tobytes())}))
        place = len(buffers) - 1 if stored is not None else 0
        fields = {0: builder.CreateString(f"t{len(tensors)}"), 1: _ints(builder, shape)}
        tensors.append(_table(builder, fields, numbers={3: place}))
        return len(tensors) - 1

    at = first = tensor([1, layers[0][0].shape[1]])
    for weights, bias, relu in layers:
        outputs, inputs = weights.shape
        parts = [at, tensor([inputs, outputs], weights)]
        parts += [] if bias is None else [tensor([1, outputs], bias)]
        at = tensor([1, outputs])
        fields = {1: _ints(builder, parts), 2: _ints(builder, [at]), 4: _table(builder, {})}
        operators.append(_table(builder, fields, numbers={5: int(relu)}, byte=(3, 1)))
    root = {
        0: builder.CreateString(name),
        1: _offsets(builder, tensors),
        2: _ints(builder, [first]),
        3: _ints(builder, [at]),
        4: _offsets(builder, operators),
        5: _offsets(builder, buffers),
    }
    builder.Finish(_table(builder, root), file_identifier=b"VPUN")
    path.write_bytes(builder.Output())
    return path


def _table(
    builder: flatbuffers.Builder,
    offsets: dict[int, int],
    numbers: dict[int, int] | None = None,
    byte: tuple[int, int] | None = None,
) -> int:
    builder.StartObject(8)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in (numbers or {}).items():
        builder.PrependInt32Slot(slot, number, 0)
    if byte:
        builder.PrependInt8Slot(*byte, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, values: Sequence[int], write: Callable[[int], object]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        write(value)
    return int(builder.EndVector())


def _ints(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    return _vector(builder, values, builder.PrependInt32)


def _offsets(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    return _vector(builder, values, builder.PrependUOffsetTRelative)


def _bytes(builder: flatbuffers.Builder, data: bytes) -> int:
    return int(builder.CreateByteVector(data))
