"""Reading what ``qnn-profile-viewer`` of Qualcomm's SDK makes of a phone's profile: its table in CSV.

Some lines on versions come first. Then a heading, names with a space after each comma, and a row an event; an inference
has a group of rows whose message is ``EXECUTE``. Rows of level ``ROOT`` are of the whole graph, those of level
``SUB-EVENT`` of a layer.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from hwnas.spaces.errors import ModelError

__all__ = ["TIME", "Profile", "read_profile"]

#: The event that counts: from the program's start on the accelerator to its end there.
TIME = "Accelerator (execute) time"
_MAX_BYTES = 64 * 1000 * 1000
_COLUMNS = ("Message", "Time", "Unit of Measurement", "Event Level", "Event Identifier")
_LAYER = re.compile(r"(.+?)[ :]OpId_\d+ \(cycles\)")


@dataclass(frozen=True)
class Profile:
    """A run on a phone.

    Attributes
    ----------
    execute_us
        Microseconds on the accelerator, an inference each; empty at the level ``detailed``, which counts cycles.
    cycles
        Cycles of each layer, an inference each; empty at the level ``basic``.
    """

    execute_us: tuple[float, ...]
    cycles: dict[str, list[int]]


def read_profile(path: Path) -> Profile:
    """Read the CSV that ``qnn-profile-viewer`` wrote.

    Raises
    ------
    ModelError
        If it is too large or no such table, or counts what is no number.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelError(f"the phone's profile has {size // 1_000_000} MB; at most {_MAX_BYTES // 1_000_000} are read")
    rows = csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines(), skipinitialspace=True)
    try:
        for row in rows:
            heading = [cell.strip() for cell in row]
            if set(_COLUMNS) <= set(heading):
                break
        else:
            raise ModelError(f"the phone's profile has no line with {', '.join(_COLUMNS)}; update hwnas")
        places = [heading.index(name) for name in _COLUMNS]
        execute_us: list[float] = []
        cycles: dict[str, list[int]] = {}
        for row in rows:
            if len(row) <= max(places):
                continue
            message, value, unit, level, event = (row[place].strip() for place in places)
            if message != "EXECUTE":
                continue
            if (unit, level, event) == ("US", "ROOT", TIME):
                execute_us.append(float(_count(value, event)))
            elif unit == "CYCLES" and level == "SUB-EVENT" and (layer := _LAYER.fullmatch(event)):
                cycles.setdefault(layer[1], []).append(_count(value, event))
    except csv.Error as error:
        raise ModelError(f"the phone's profile is no CSV: {error}") from error
    return Profile(tuple(execute_us), cycles)


def _count(text: str, event: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ModelError(f"the phone's profile gives {text[:40]!r} as {event[:80]!r}, which is no count")
    return int(text)
