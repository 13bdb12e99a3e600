"""Spaces that scale: channel rounding, depth, and which strides small inputs keep."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from hwnas.spaces.errors import ConfigError
from hwnas.spaces.space import SearchSpace

__all__ = ["ScaledSpace", "keep_strides", "round_channels", "scale_depth"]

#: the last feature map of a scaled skeleton keeps at least this many rows and columns
SMALLEST_MAP = 4


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never below 90 % of `channels` (the MobileNet rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def scale_depth(blocks: int, depth: float) -> int:
    """Number of blocks in a stage under a depth multiplier; at least one."""
    return max(1, round(blocks * depth))


def keep_strides(resolution: int, strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of a skeleton for an input size: the earliest stride-2 layers are dropped on small inputs.

    An input of 224 keeps all five halvings of an ImageNet skeleton, 32 keeps the last three, 28 the
    last two and 8 the last one, so that the last feature map is at least 4 x 4.
    """
    allowed = max(0, int(math.log2(max(resolution, 1) / SMALLEST_MAP)))
    surplus = max(0, sum(stride == 2 for stride in strides) - allowed)
    kept = []
    for stride in strides:
        drop = stride == 2 and surplus > 0
        surplus -= drop
        kept.append(1 if drop else stride)
    return tuple(kept)


class ScaledSpace(SearchSpace):
    """A space on a skeleton of layers that scales by input size, classes, width and depth.

    A subclass lays out its layers and sets `decisions` in `_lay_out`, from the parameters that are
    stored here by then.

    Parameters
    ----------
    resolution, channels, classes
        Input height and width in pixels, input channels, and output classes.
    width, depth
        Multipliers of all channels (but the classes) and of the blocks in each stage.

    Raises
    ------
    ConfigError
        If a parameter is out of range.
    """

    width: float
    depth: float

    def __init__(
        self, resolution: int = 224, channels: int = 3, classes: int = 1000, width: float = 1.0, depth: float = 1.0
    ) -> None:
        ranges = {
            "resolution": (resolution, 4, 4096),
            "channels": (channels, 1, 1024),
            "classes": (classes, 1, 1_000_000),
            "width": (width, 0.01, 64),
            "depth": (depth, 0.01, 64),
        }
        for name, (value, low, high) in ranges.items():
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{self.name} needs {name} between {low} and {high}, not {value}")
            setattr(self, name, value)
        self._lay_out()

    @abstractmethod
    def _lay_out(self) -> None:
        """Set `decisions`, and whatever `build` needs."""
