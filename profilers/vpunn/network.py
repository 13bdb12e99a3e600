"""Reads the networks of Intel's cost model: ``.vpunn`` files, FlatBuffers that hold a multi-layer perceptron.

The format (identifier ``VPUN``) is that of the public repository intel/npu-nn-cost-model (Apache-2.0): a model has a
name, tensors (name, shape, type, index of a buffer), operators (fully connected layers, whose inputs are the
activations, the weights and perhaps a bias) and buffers. Weights lie row-major as (outputs, inputs), although their
shape says (inputs, outputs). The name ``VPUNN-<descriptor>-<output>`` says what goes in and what comes out.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.errors import ModelError

__all__ = ["CostNetwork", "DenseLayer", "read_network"]

Floats = NDArray[np.float32]

_MAX_BYTES = 64 * 2**20
_MAX_LAYERS = 64
_NAME = re.compile(r"VPUNN-(\d{1,6})-(\d{1,6})(?!\d)")
#: outputs that are cycles as they stand; others are overheads, or need a correction of Intel's
_CYCLES = (2, 5)
#: of the schema's enumerations
_FULLY_CONNECTED, _NO_ACTIVATION, _RELU, _FLOAT32 = 1, 0, 1, 0


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """``max(0, x weights^T + bias)``, or without the maximum; weights (outputs, inputs), bias (outputs,)."""

    weights: Floats
    bias: Floats
    relu: bool


@dataclass(frozen=True, eq=False)
class CostNetwork:
    """A perceptron that gives the cycles of workloads from their descriptors.

    Attributes
    ----------
    name
        As in the file, such as ``VPUNN-11-02``.
    descriptor
        Version of the descriptor that goes in, see `hwnas.profilers.vpunn.workload`.
    layers
        From the descriptor to one number.
    digest
        SHA-256 of the file, hexadecimal.
    """

    name: str
    descriptor: int
    layers: tuple[DenseLayer, ...]
    digest: str

    @property
    def inputs(self) -> int:
        """Numbers in a descriptor."""
        return int(self.layers[0].weights.shape[1])

    def predict(self, descriptors: Floats) -> Floats:
        """Cycles of workloads, not rounded: descriptors (n, `inputs`) in, (n,) out; float32 like Intel's own."""
        values = np.ascontiguousarray(descriptors, np.float32)
        for layer in self.layers:
            values = values @ layer.weights.T + layer.bias
            if layer.relu:
                np.maximum(values, 0, out=values)
        return values[:, 0]


def read_network(path: str | Path) -> CostNetwork:
    """Read a ``.vpunn`` file.

    Raises
    ------
    ModelError
        If it cannot be read, is no such file, is damaged, or holds what this reader does not know.
    """
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}; check the path") from error
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} only points to the file in Git LFS; fetch it with: git lfs pull")
    if len(data) > _MAX_BYTES:
        raise ModelError(f"{file} has more than {_MAX_BYTES >> 20} MiB; a .vpunn file has about one")
    if data[4:8] != b"VPUN":
        raise ModelError(f"{file} is no .vpunn file (no VPUN at byte 4); take one of intel/npu-nn-cost-model")
    try:
        return _read_model(data)
    except (_Damaged, struct.error) as error:
        raise ModelError(f"{file} is damaged or of an unknown kind ({error}); fetch it again") from error


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    """Something in the file that cannot be."""


class _Table:
    """A table of a FlatBuffer; every position is checked against the length of the file."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        start = position - self._int(position)
        if start < 0:
            raise _Damaged(f"a table at {position} that has its layout before the file")
        (size,) = struct.unpack_from("<H", data, start)
        if size < 4 or size % 2 or start + size > len(data):
            raise _Damaged(f"a table at {position} whose layout has {size} bytes")
        self._offsets = struct.unpack_from(f"<{size // 2 - 2}H", data, start + 4)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _int(self, position: int) -> int:
        if not 0 <= position <= len(self._data) - 4:
            raise _Damaged(f"it points to byte {position} of {len(self._data)}")
        return int(struct.unpack_from("<i", self._data, position)[0])

    def _field(self, index: int) -> int | None:
        offset = self._offsets[index] if index < len(self._offsets) else 0
        return self._position + offset if offset else None

    def number(self, index: int, *, byte: bool = False) -> int:
        """A number, 0 if the field is left out."""
        position = self._field(index)
        if position is None:
            return 0
        if byte:
            return int(struct.unpack_from("<b", self._data, position)[0])
        return self._int(position)

    def _vector(self, index: int, width: int) -> tuple[int, int]:
        """Position of the first item, and the number of items of `width` bytes."""
        position = self._field(index)
        if position is None:
            return 0, 0
        start = position + self._int(position)
        count = self._int(start)
        if count < 0 or start + 4 + count * width > len(self._data):
            raise _Damaged(f"a list of {count} items at byte {start} of {len(self._data)}")
        return start + 4, count

    def numbers(self, index: int) -> list[int]:
        start, count = self._vector(index, 4)
        return list(struct.unpack_from(f"<{count}i", self._data, start))

    def raw(self, index: int) -> bytes:
        start, count = self._vector(index, 1)
        return self._data[start : start + count]

    def text(self, index: int) -> str:
        return self.raw(index).decode("utf-8", errors="replace")

    def tables(self, index: int) -> list[_Table]:
        start, count = self._vector(index, 4)
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, place + self._int(place)) for place in places]


def _read_model(data: bytes) -> CostNetwork:
    root = _Table.root(data)
    name, tensors, operators = root.text(0), root.tables(1), root.tables(4)
    found = _NAME.match(name)
    if found is None:
        raise _Damaged(f"its name is {name[:60]!r}, not VPUNN-<descriptor>-<output>")
    descriptor, output = int(found[1]), int(found[2])
    if output not in _CYCLES:
        raise _Damaged(f"output version {output}, not {' or '.join(map(str, _CYCLES))}")
    if not 0 < len(operators) <= _MAX_LAYERS:
        raise _Damaged(f"{len(operators)} layers")
    buffers = root.tables(5)
    at, layers = _only(root.numbers(2), "input"), []
    for operator in operators:
        inputs = operator.numbers(1)
        if not inputs or inputs[0] != at:
            raise _Damaged("layers that do not follow each other")
        layers.append(_dense(operator, [_values(tensors, buffers, index) for index in inputs[1:]]))
        at = _only(operator.numbers(2), "output")
    if at != _only(root.numbers(3), "output") or layers[-1].bias.size != 1:
        raise _Damaged("its last layer does not give its one output")
    for before, after in pairwise(layers):
        if before.bias.size != after.weights.shape[1]:
            raise _Damaged(f"a layer of {before.bias.size} outputs before one of {after.weights.shape[1]} inputs")
    return CostNetwork(name, descriptor, tuple(layers), hashlib.sha256(data).hexdigest())


def _only(indices: Sequence[int], what: str) -> int:
    if len(indices) != 1:
        raise _Damaged(f"a part with {len(indices)} {what}s, not one")
    return indices[0]


def _values(tensors: Sequence[_Table], buffers: Sequence[_Table], index: int) -> tuple[list[int], Floats]:
    """Shape and numbers of a stored tensor."""
    if not 0 <= index < len(tensors):
        raise _Damaged(f"tensor {index} of {len(tensors)}")
    tensor = tensors[index]
    shape, kind, place = tensor.numbers(1), tensor.number(2, byte=True), tensor.number(3)
    if kind != _FLOAT32 or not 0 < place < len(buffers):
        raise _Damaged(f"a tensor of type {kind} in buffer {place} of {len(buffers)}")
    raw = buffers[place].raw(0)
    if len(raw) % 4:
        raise _Damaged(f"{len(raw)} bytes of float32")
    values = np.frombuffer(raw, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise _Damaged("weights that are not finite")
    return shape, values


def _dense(operator: _Table, stored: Sequence[tuple[list[int], Floats]]) -> DenseLayer:
    kind, activation = operator.number(3, byte=True), operator.number(5)
    if kind != _FULLY_CONNECTED or activation not in (_NO_ACTIVATION, _RELU) or len(stored) not in (1, 2):
        raise _Damaged(f"a layer of kind {kind} with activation {activation} and {len(stored)} stored tensors")
    shape, weights = stored[0]
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != weights.size:
        raise _Damaged(f"weights of shape {shape} with {weights.size} numbers")
    inputs, outputs = shape
    bias = stored[1][1] if len(stored) == 2 else np.zeros(outputs, np.float32)
    if bias.size != outputs:
        raise _Damaged(f"{bias.size} biases for {outputs} outputs")
    return DenseLayer(weights.reshape(outputs, inputs), bias, activation == _RELU)
