"""Two tiny models that make latencies comparable: one to see the machine drift, one to see what a call costs."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from hwnas.profilers.protocol import Pass, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

__all__ = ["Anchor", "anchor_model", "null_model"]

#: The level that drift is counted from should not rest on a single timing.
_FIRST_TIMINGS = 5
#: What counts as quiet: this percentile of the timings of so many seconds.
_QUIET_PERCENTILE = 20
_QUIET_WINDOW_S = 600.0
#: A timing of the pass before serves as the one before the next.
_RECENT_S = 0.1
#: Between two looks at a machine that is not quiet.
_PAUSE_S = 0.2


def null_model() -> ModelProto:
    """A model that does nothing: what it takes is the overhead of calling the runtime."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"], name="identity")],
        "null",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def anchor_model() -> ModelProto:
    """The reference model: one inverted bottleneck (32 channels, expanded 6 times) on 28 × 28, 11 M MACs.

    Its kernels are the ones that mobile networks spend their time in, so it slows down as they do.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "expand/w": rng.standard_normal((192, 32, 1, 1), dtype=np.float32) * 0.25,
        "depthwise/w": rng.standard_normal((192, 1, 3, 3), dtype=np.float32) * 0.4,
        "project/w": rng.standard_normal((32, 192, 1, 1), dtype=np.float32) * 0.1,
        "low": np.float32(0),
        "high": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["input", "expand/w"], ["expand"], name="expand", kernel_shape=[1, 1]),
        helper.make_node("Clip", ["expand", "low", "high"], ["expand/act"], name="expand/act"),
        helper.make_node(
            "Conv",
            ["expand/act", "depthwise/w"],
            ["depthwise"],
            name="depthwise",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            group=192,
        ),
        helper.make_node("Clip", ["depthwise", "low", "high"], ["depthwise/act"], name="depthwise/act"),
        helper.make_node("Conv", ["depthwise/act", "project/w"], ["project"], name="project", kernel_shape=[1, 1]),
        helper.make_node("Add", ["project", "input"], ["output"], name="add"),
    ]
    shape = [1, 32, 28, 28]
    graph = helper.make_graph(
        nodes,
        "anchor",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Anchor:
    """Follows the speed of the machine by timing the reference model every now and then.

    Parameters
    ----------
    measure
        Times one short pass of the reference model.
    reference_ms
        The level that counts as no drift; None takes the first level seen.
    """

    def __init__(self, measure: Callable[[Protocol], Pass], reference_ms: float | None = None) -> None:
        self._measure = measure
        self._seen: deque[tuple[float, float]] = deque(maxlen=1000)
        self.reference_ms = reference_ms

    def level(self, protocol: Protocol) -> float:
        """The reference model's present latency, milliseconds; timed anew if the last timing is too old."""
        if not self._seen:
            for _ in range(_FIRST_TIMINGS):
                self._time(protocol)
        elif time.monotonic() - self._seen[-1][0] >= protocol.anchor_every_s:
            self._time(protocol)
        newest = self._seen[-1][0]
        level = float(np.median([ms for at, ms in self._seen if newest - at <= protocol.anchor_window_s]))
        if self.reference_ms is None:
            self.reference_ms = level
        return level

    def wait_until_quiet(self, protocol: Protocol) -> bool:
        """Wait until the machine is as quiet as it lately was; whether it became so within the protocol's patience."""
        end = time.monotonic() + protocol.quiet_wait_s
        recent = bool(self._seen) and time.monotonic() - self._seen[-1][0] < _RECENT_S
        slowed = self.slowed(protocol, anew=not recent)
        while slowed and time.monotonic() < end:
            time.sleep(_PAUSE_S)
            slowed = self.slowed(protocol)
        return not slowed

    def slowed(self, protocol: Protocol, *, anew: bool = True) -> bool:
        """Whether something else slows the machine down now, by the reference model against its own quiet level.

        That level is a low percentile of the last minutes, so that lasting drift becomes the new normal.

        Parameters
        ----------
        protocol
            Says by what share it may be slower.
        anew
            Time the model now, instead of going by its last timing.
        """
        if not protocol.max_slowdown:
            return False
        if anew or not self._seen:
            self._time(protocol)
        newest, now_ms = self._seen[-1]
        lately = [ms for at, ms in self._seen if newest - at <= _QUIET_WINDOW_S]
        return now_ms > (1 + protocol.max_slowdown) * float(np.percentile(lately, _QUIET_PERCENTILE))

    def _time(self, protocol: Protocol) -> None:
        # a disturbed timing would be taken for drift; if the machine is never quiet, it is one
        timing = self._measure(protocol)
        for _ in range(2):
            if timing.clean:
                break
            timing = self._measure(protocol)
        self._seen.append((time.monotonic(), timing.value_ms))
