"""The errors a user can meet: each is one sentence naming the thing, the value and the mend.

The command line prints the sentence and exits with code 2; Python callers catch `HwnasError`.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "DeviceUnavailable",
    "HwnasError",
    "InfeasibleError",
    "ModelError",
    "RankError",
    "TableError",
]


class HwnasError(Exception):
    """Base of every error that hwnas raises on purpose; its text is one clear sentence."""


class ConfigError(HwnasError):
    """A name, option or setting that cannot be used (unknown space, bad unit, wrong range)."""


class DataError(HwnasError):
    """A data set or image file that cannot be read."""


class DeviceUnavailable(HwnasError):  # noqa: N818 - it reads as the state it is
    """A device that is not here; the text says what to install, plug in or start."""


class InfeasibleError(HwnasError):
    """No architecture of the space meets the constraints; the text names the nearest point."""


class ModelError(HwnasError):
    """An ONNX model, checkpoint or architecture that cannot be used."""


class RankError(HwnasError):
    """A process of several that train together and has ended, does not answer, or is out of step."""


class TableError(HwnasError):
    """A latency table that is missing, damaged, or lacks rows."""
