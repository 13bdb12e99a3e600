"""Operators as the Hexagon kernels take them: layouts of arrays, numbers of jobs, fixed-point scales.

Every function makes a `Call` of quantised arrays: unsigned bytes for activations, signed bytes for weights, 32-bit
biases, real scales. Activations are ``(1, channels, height, width)`` and become planes of four channels
(``hexagon/kernels.h``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from hwnas.profilers.hexagon_program import Counts, Program
from hwnas.spaces.errors import ModelError

__all__ = [
    "Call",
    "Quantised",
    "Window",
    "add",
    "average_pool",
    "choose_channels",
    "convolution",
    "global_pool",
    "look_up",
    "max_pool",
    "multiply",
    "scale_channels",
]

LANES = 32
#: the kinds of ``hexagon/kernels.h``, from 1 on
KINDS = (
    "conv", "depthwise", "linear", "max-pool", "average-pool", "global-pool", "add", "multiply", "scale", "lookup",
    "channels",
)  # fmt: skip
#: of the kernels' last shift, see ``to_bytes``
_MOST_SHIFT = 15
_MOST_TAPS, _MOST_PHASES = 256, 32


@dataclass(frozen=True, eq=False)
class Quantised:
    """An array of unsigned bytes that stand for ``(value - zero) * scale``."""

    values: np.ndarray
    scale: float = 1.0
    zero: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, channels, height, width; a row of features is a map of one pixel."""
        sizes = (*self.values.shape, 1, 1) if self.values.ndim == 2 else self.values.shape
        if self.values.dtype != np.uint8 or len(sizes) != 4 or sizes[0] != 1 or 0 in sizes:
            raise ModelError(
                f"the Hexagon kernels take one image of unsigned bytes, not {self.values.dtype} "
                f"{list(self.values.shape)}; quantise activations to uint8 and use batch 1"
            )
        return sizes


@dataclass(frozen=True)
class Window:
    """A kernel that moves over a map: height and width, stride, dilation, padding ``(top, left, bottom, right)``."""

    height: int = 1
    width: int = 1
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what it makes of a map."""
        down = height + self.pads[0] + self.pads[2] - (self.height - 1) * self.dilation - 1
        right = width + self.pads[1] + self.pads[3] - (self.width - 1) * self.dilation - 1
        return down // self.stride + 1, right // self.stride + 1


@dataclass(frozen=True)
class _Job:
    """The numbers of ``Job`` in ``hexagon/runtime.h``, in its order."""

    kind: int
    in4: int
    out4: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel_height: int = 1
    kernel_width: int = 1
    stride: int = 1
    dilation: int = 1
    top: int = 0
    left: int = 0
    phases: int = 1
    phase_height: int = 0
    phase_width: int = 0
    pad: int = 0
    zero: int = 0
    before: int = 0
    shift: int = 1
    broadcast: int = 0


@dataclass(frozen=True, eq=False)
class Call:
    """One run of one kernel.

    Attributes
    ----------
    kind
        Name of the kernel.
    macs
        Products of weights and activations that the operator asks for, without padding of channels.
    signature
        What determines the counts: calls of equal signatures take the same packets, whatever their numbers.
    """

    kind: str
    macs: int
    signature: tuple[object, ...]
    _job: _Job
    _blobs: tuple[bytes, ...]
    _channels: int

    def run(self, program: Program) -> tuple[Counts, np.ndarray]:
        """Run it; returns the counts, and the output ``(1, channels, height, width)`` of unsigned bytes."""
        job = self._job
        pixels = job.out_height * job.out_width
        counts, said = program.run(astuple(job), self._blobs, 4 * job.out4 * _pitch(pixels))
        planes = said.reshape(job.out4, _pitch(pixels), 4)[:, :pixels]
        maps = planes.transpose(0, 2, 1).reshape(4 * job.out4, job.out_height, job.out_width)
        return counts, maps[None, : self._channels]


def _call(job: _Job, blobs: Sequence[np.ndarray | bytes], channels: int, macs: int = 0, extra: object = None) -> Call:
    kind = KINDS[job.kind - 1]
    bare = astuple(replace(job, pad=0, zero=0, before=0, shift=1))
    raw = tuple(blob if isinstance(blob, bytes) else np.ascontiguousarray(blob).tobytes() for blob in blobs)
    return Call(kind, macs, (kind, bare, extra), job, raw, channels)


def _pitch(pixels: int) -> int:
    return -(-pixels // LANES) * LANES


def _fours(channels: int) -> int:
    return -(-channels // 4)


def _planes(x: Quantised) -> np.ndarray:
    _, channels, height, width = x.shape
    planes = np.zeros((_fours(channels), 4, _pitch(height * width)), np.uint8)
    planes.reshape(-1, planes.shape[-1])[:channels, : height * width] = x.values.reshape(channels, -1)
    return planes.transpose(0, 2, 1)


def _simple(kind: str, x: Quantised, **numbers: int) -> _Job:
    """The job of an operator whose output is as large as its input, unless `numbers` say otherwise."""
    _, channels, height, width = x.shape
    sizes = {"in4": _fours(channels), "out4": _fours(channels), "height": height, "width": width}
    sizes |= {"out_height": height, "out_width": width}
    return _Job(KINDS.index(kind) + 1, **{**sizes, **numbers})


def _moved(window: Window, height: int, width: int) -> dict[str, int]:
    """The numbers of a job that say how a window moves."""
    out_height, out_width = window.output(height, width)
    most = window.height * window.width > _MOST_TAPS or window.stride > _MOST_PHASES
    if most or min(out_height, out_width) < 1 or min(window.pads) < 0:
        raise ModelError(f"the Hexagon kernels cannot move {window} over a map of {height} × {width}")
    reach = max(window.height, window.width) - 1
    phases = min(window.stride, reach * window.dilation + 1)
    # rows and columns of a phase: as many as the outputs and their last tap need, or the map itself if it fits
    last = [(size - 1) * window.dilation // window.stride for size in (window.height, window.width)]
    return {
        "out_height": out_height,
        "out_width": out_width,
        "kernel_height": window.height,
        "kernel_width": window.width,
        "stride": window.stride,
        "dilation": window.dilation,
        "top": window.pads[0],
        "left": window.pads[1],
        "phases": phases,
        "phase_height": out_height + last[0],
        "phase_width": out_width + last[1],
    }


# ------------------------------------------------------------------ fixed point


def _fixed(scales: np.ndarray | float, most: int | None = None) -> tuple[np.ndarray, int, int]:
    """Real factors as 31-bit integers with one shift.

    Parameters
    ----------
    scales
        Factors, all above zero or zero.
    most
        Largest absolute value that is multiplied, if it may be shifted left first; None if not.

    Returns
    -------
    tuple
        Integers, the shift to the left before, and the one to the right after: ``x * scale`` is
        ``((x << before) * integer >> 31) >> shift``.

    Raises
    ------
    ModelError
        If the factors are too large for that.
    """
    real = np.atleast_1d(np.asarray(scales, np.float64))
    largest = float(real.max())
    if not (np.isfinite(real).all() and (real >= 0).all() and largest > 0):
        raise ModelError(f"a scale of a quantised operator is not positive: {real.min():g}")
    shift = min(_MOST_SHIFT, -math.frexp(largest)[1])
    before = max(0, 1 - shift)
    if before and (most is None or most << before >= 1 << 30):
        raise ModelError(
            f"an operator multiplies by {largest:g} when it requantises; the Hexagon kernels need below 0.5"
        )
    shift += before
    integers = np.rint(real * 2.0 ** (31 + shift - before)).clip(0, 2**31 - 1)
    return integers.astype(np.int32), before, shift


def _affine(scales: np.ndarray, offsets: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """``x * scale + offset`` for bytes x as integers of so many bits: factors, biases (rounding included), shifts."""
    largest = float(np.abs(scales).max())
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and largest > 0):
        raise ModelError("the scales of a quantised operator are not numbers above zero")
    shift = bits - math.frexp(largest)[1]
    reach = float(np.abs(offsets).max()) + 1
    shift = min(shift, 30 - math.frexp(reach)[1], 2 * _MOST_SHIFT)
    if shift < 1:
        raise ModelError(f"an operator multiplies bytes by {largest:g}; the Hexagon kernels cannot")
    shifts = {"before": max(0, shift - _MOST_SHIFT), "shift": min(shift, _MOST_SHIFT)}
    biases = np.rint(offsets * 2.0**shift) + 2 ** (shift - 1)
    return np.rint(scales * 2.0**shift).astype(np.int32), biases.astype(np.int32), shifts


# ------------------------------------------------------------------ convolutions


def convolution(
    x: Quantised,
    weights: np.ndarray,
    bias: np.ndarray | None,
    factors: np.ndarray,
    zero: int,
    window: Window,
    *,
    depthwise: bool = False,
) -> Call:
    """A convolution, a depthwise one, or, on one pixel, a matrix product.

    Parameters
    ----------
    x
        The input.
    weights
        Signed bytes ``(outputs, inputs, height, width)``; for a depthwise convolution there is one input.
    bias
        32-bit integers ``(outputs,)``, or None.
    factors
        What accumulators are multiplied by, ``(outputs,)`` or one: scale of input times weights over output.
    zero
        The output's zero point.
    """
    _, channels, height, width = x.shape
    outputs = len(weights)
    if weights.dtype != np.int8 or weights.ndim != 4 or weights.shape[1] != (1 if depthwise else channels):
        raise ModelError(
            f"the Hexagon kernels need int8 weights that fit the input, not {weights.dtype} {weights.shape}"
        )
    scale, _, shift = _fixed(np.broadcast_to(factors, (outputs,)))
    sums = weights.reshape(outputs, -1).astype(np.int64).sum(axis=1)
    start = (0 if bias is None else bias.astype(np.int64)) - x.zero * sums
    if np.abs(start).max() + 255 * np.abs(weights.astype(np.int64)).reshape(outputs, -1).sum(axis=1).max() >= 2**31:
        raise ModelError("a convolution may overflow its 32-bit accumulators; lower its bias")
    macs = weights.size * math.prod(window.output(height, width))
    job = _simple("conv", x, out4=_fours(outputs), pad=x.zero, zero=zero, shift=shift, **_moved(window, height, width))
    padded = np.zeros((4 * job.out4, 4 * (1 if depthwise else job.in4), *weights.shape[2:]), np.int8)
    padded[:outputs, : weights.shape[1]] = weights
    extended = [np.pad(part, (0, 4 * job.out4 - outputs)) for part in (start.astype(np.int32), scale)]
    if depthwise:
        job = replace(job, kind=KINDS.index("depthwise") + 1)
        packed = _depthwise_weights(padded[:, 0])
    elif height == width == job.out_height == job.out_width == 1 and window.height == window.width == 1:
        job = replace(job, kind=KINDS.index("linear") + 1)
        parts = 4 if 4 * job.out4 > LANES else 1
        packed, extended = _matrix(padded[:, :, 0, 0], parts), [_lanes(part, parts) for part in extended]
    else:
        packed = _conv_weights(padded)
    return _call(job, [_planes(x), b"", packed, *extended], outputs, macs)


def _conv_weights(weights: np.ndarray) -> np.ndarray:
    """Eight outputs at a time, the last four alone if they are left over: [group][inputs / 4][tap][outputs][4]."""
    outputs, inputs = weights.shape[:2]
    ordered = weights.reshape(outputs, inputs // 4, 4, -1).transpose(1, 3, 0, 2)
    whole = outputs // 8 * 8
    groups = [ordered[:, :, first : first + 8] for first in range(0, whole, 8)] + [ordered[:, :, whole:]]
    return np.concatenate([group.ravel() for group in groups])


def _depthwise_weights(weights: np.ndarray) -> np.ndarray:
    """[channels / 4][tap / 4][4 channels][4 taps]"""
    flat = weights.reshape(len(weights), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
    return flat.reshape(len(flat) // 4, 4, -1, 4).transpose(0, 2, 1, 3)


def _matrix(weights: np.ndarray, parts: int) -> np.ndarray:
    """[block of 32 · parts outputs][inputs / 4][part][32][4], where output = 32 · lane + part within a block"""
    step = LANES * parts
    padded = np.pad(weights, ((0, -len(weights) % step), (0, 0)))
    blocks: np.ndarray = padded.reshape(-1, LANES, parts, padded.shape[1] // 4, 4)
    return blocks.transpose(0, 3, 2, 1, 4)


def _lanes(values: np.ndarray, parts: int) -> np.ndarray:
    padded = np.pad(values, (0, -len(values) % (LANES * parts)))
    return padded.reshape(-1, LANES, parts).transpose(0, 2, 1).ravel()


# ------------------------------------------------------------------ pools


def max_pool(x: Quantised, window: Window) -> Call:
    """The greatest value of each window; padding counts for nothing."""
    _, channels, height, width = x.shape
    return _call(_simple("max-pool", x, **_moved(window, height, width)), [_planes(x)], channels)


def average_pool(x: Quantised, window: Window, scale: float, zero: int, *, count_padding: bool = False) -> Call:
    """The mean of each window, as ``(value - zero) * scale``."""
    _, channels, height, width = x.shape
    moved = _moved(window, height, width)
    taps = window.height * window.width
    if count_padding:
        counts = np.full((moved["out_height"], moved["out_width"]), taps)
    else:
        inside = np.outer(
            _taps_inside(height, moved["out_height"], window.height, window.pads[0], window),
            _taps_inside(width, moved["out_width"], window.width, window.pads[1], window),
        )
        counts = inside.clip(1)
    integers, before, shift = _fixed(x.scale / (scale * counts), 255 * taps)
    spread = np.zeros((moved["out_height"], moved["phase_width"]), np.int32)
    spread[:, : moved["out_width"]] = integers.reshape(counts.shape)
    flat = spread.ravel()[: (moved["out_height"] - 1) * moved["phase_width"] + moved["out_width"]]
    flat = np.pad(flat, (0, -len(flat) % LANES))
    job = _simple("average-pool", x, pad=x.zero, zero=zero, before=before, shift=shift, **moved)
    return _call(job, [_planes(x), b"", b"", np.array([-x.zero * taps], np.int32), flat], channels)


def _taps_inside(size: int, count: int, taps: int, pad: int, window: Window) -> np.ndarray:
    at = np.arange(count)[:, None] * window.stride + np.arange(taps) * window.dilation - pad
    return np.asarray(np.count_nonzero((at >= 0) & (at < size), axis=1))


def global_pool(x: Quantised, scale: float, zero: int) -> Call:
    """The mean of the whole map, as ``(value - zero) * scale``."""
    _, channels, height, width = x.shape
    pixels = height * width
    integers, before, shift = _fixed(x.scale / (scale * pixels), 255 * pixels)
    job = _simple("global-pool", x, out_height=1, out_width=1, zero=zero, before=before, shift=shift)
    return _call(job, [_planes(x), b"", b"", np.array([-x.zero * pixels], np.int32), integers], channels)


# ------------------------------------------------------------------ pixel by pixel


def _paired(kind: str, a: Quantised, b: Quantised) -> tuple[Quantised, Quantised, int]:
    """The operands in an order in which the second is as large as the first or one pixel of it."""
    if math.prod(a.shape) < math.prod(b.shape):
        a, b = b, a
    if a.shape != b.shape and b.shape != (*a.shape[:2], 1, 1):
        raise ModelError(f"there is no Hexagon kernel for {kind} of maps of {a.shape} and {b.shape}")
    return a, b, int(a.shape != b.shape)


def add(a: Quantised, b: Quantised, scale: float, zero: int) -> Call:
    """The sum, as ``(value - zero) * scale``; the smaller may be one pixel."""
    a, b, broadcast = _paired("add", a, b)
    factors = np.array([a.scale / scale, b.scale / scale])
    offset = np.array([zero - factors @ (a.zero, b.zero)])
    integers, bias, shifts = _affine(factors, offset, 21)
    job = _simple("add", a, broadcast=broadcast, **shifts)
    return _call(job, [_planes(a), _planes(b), b"", bias, integers], a.shape[1])


def multiply(a: Quantised, b: Quantised, scale: float, zero: int) -> Call:
    """The product, as ``(value - zero) * scale``; the smaller may be one pixel."""
    a, b, broadcast = _paired("multiply", a, b)
    integers, before, shift = _fixed(a.scale * b.scale / scale, 255 * 255)
    job = _simple("multiply", a, zero=zero, before=before, shift=shift, broadcast=broadcast)
    return _call(job, [_planes(a), _planes(b), b"", np.array([a.zero, b.zero], np.int32), integers], a.shape[1])


def scale_channels(x: Quantised, factors: np.ndarray, offsets: np.ndarray) -> Call:
    """Each byte times its channel's factor plus its offset, both ``(channels,)`` and in units of the output's bytes."""
    integers, biases, shifts = _affine(factors, offsets, 22)
    extended = [np.pad(part, (0, -len(part) % 4)) for part in (biases, integers)]
    return _call(_simple("scale", x, **shifts), [_planes(x), b"", b"", *extended], x.shape[1])


def look_up(x: Quantised, table: np.ndarray) -> Call:
    """Each byte replaced by its entry of `table`, 256 unsigned bytes."""
    # two vectors of 64 halfwords: entries i and i + 64 share one
    packed = np.asarray(table, np.uint8).reshape(2, 2, 64).transpose(0, 2, 1)
    return _call(_simple("lookup", x), [_planes(x), b"", packed], x.shape[1])


def choose_channels(inputs: Sequence[Quantised], chosen: Sequence[int]) -> Call:
    """A map of chosen channels of maps of one size; channels are numbered through the inputs."""
    numbers: list[int] = []
    first = 0
    for x in inputs:
        numbers += range(first, first + x.shape[1])
        first += 4 * _fours(x.shape[1])
    sources = [numbers[channel] for channel in chosen]
    sources += [0] * (-len(sources) % 4)
    job = _simple("channels", inputs[0], in4=first // 4, out4=len(sources) // 4)
    planes = np.concatenate([_planes(x) for x in inputs])
    return _call(job, [planes, b"", b"", np.array(sources, np.int32)], len(chosen), extra=tuple(sources))
