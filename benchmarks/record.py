"""Where benchmarks keep their results: one CSV a claim, one line a result, lines only ever added."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def append_rows(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Append `rows` to ``results/<name>.csv``; a new file begins with their keys."""
    file = RESULTS / f"{name}.csv"
    fresh = not file.exists()
    with open(file, "a", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
