"""Scores and latencies looked up in a published table: searching costs microseconds.

NAS-Bench-201 is read from the folder in ``HWNAS_DATA`` (default ``../shared/data``, seen from the
working folder or from the repository). Its protocol: search on the validation accuracy after 12
epochs, report the test accuracy after 200 (arXiv 2009.00437).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hwnas.costs import AdditiveCost, Part, architecture_matrix
from hwnas.evaluators.base import Evaluation, Evaluator
from hwnas.spaces.errors import ConfigError, DataError
from hwnas.spaces.space import Architecture, SearchSpace, get_space

__all__ = ["TabularEvaluator", "TabularLatency", "data_folder", "nasbench201_columns"]

EDGES = ("op_0to1", "op_0to2", "op_1to2", "op_0to3", "op_1to3", "op_2to3")
#: The 12-epoch validation accuracy to search on, and the 200-epoch test accuracy to report.
SCORE, REPORT = "c10_val_12ep", "c10_test_200ep"


def data_folder() -> Path:
    """The folder of published tables: ``HWNAS_DATA``, or ``../shared/data`` beside the working folder or repository."""
    if named := os.environ.get("HWNAS_DATA"):
        return Path(named)
    places = [Path.cwd().parent / "shared" / "data"]
    places += [parent / "shared" / "data" for parent in Path(__file__).resolve().parents[2:4]]
    return next((place for place in places if place.is_dir()), places[0])


def nasbench201_columns(names: Sequence[str], folder: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """Read columns of the NAS-Bench-201 tables, in the order of ``get_space("nasbench201").all()``.

    Parameters
    ----------
    names
        Columns of ``accuracy.parquet`` or ``latency.parquet``.
    folder
        Where ``nb201`` lies; by default `data_folder`.

    Returns
    -------
    dict
        Name to values, each of shape ``(15625,)``, float64; NaN where the table has none.

    Raises
    ------
    DataError
        If the tables are absent or damaged, or have no such column.
    ConfigError
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError as error:
        hint = "install it with: pip install 'hwnas[data]'"
        raise ConfigError(f"the published tables are read with pyarrow; {hint}") from error
    place = (Path(folder) if folder is not None else data_folder()) / "nb201"
    paths = [place / "accuracy.parquet", place / "latency.parquet"]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; set HWNAS_DATA to the folder that holds nb201/{path.name}")
    try:
        schemas = [parquet.read_schema(path) for path in paths]
        unknown = [name for name in names if not any(name in schema.names for schema in schemas)]
        if unknown:
            listing = ", ".join(name for name in schemas[1].names if "." in name)
            raise DataError(f"the NAS-Bench-201 tables have no column {unknown[0]!r}; devices are {listing}")
        found: dict[str, np.ndarray] = {}
        keys = parquet.read_table(paths[0], columns=["arch_idx", *EDGES])
        codes = np.stack([keys.column(edge).to_numpy().astype(np.int64) for edge in EDGES], axis=1)
        place_of = np.full(5**6, -1)
        place_of[keys.column("arch_idx").to_numpy()] = codes @ 5 ** np.arange(5, -1, -1)
        if len(np.unique(place_of)) != 5**6 or place_of.min() < 0:
            raise DataError(f"{paths[0]} does not hold the {5**6} architectures of NAS-Bench-201 once each")
        for path, schema in zip(paths, schemas, strict=True):
            wanted = [name for name in names if name in schema.names and name not in found]
            if wanted:
                table = parquet.read_table(path, columns=["arch_idx", *wanted])
                order = place_of[table.column("arch_idx").to_numpy()]
                for name in wanted:
                    found[name] = np.full(5**6, np.nan)
                    found[name][order] = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    except (ArrowException, OSError, KeyError, IndexError, ValueError) as error:
        why = type(error).__name__
        raise DataError(f"{place} cannot be read as the NAS-Bench-201 tables ({why}); get them anew") from error
    return found


@dataclass(frozen=True, eq=False)
class TabularLatency:
    """A published latency (or energy) of every architecture, as a cost model for constraints.

    Attributes
    ----------
    space
        The space.
    device
        What the column is called: the name after the ``@`` of a constraint.
    values
        One value an architecture in the order of ``space.all()``, shape ``(space.size,)``; NaN where
        there is none, and then the architecture meets no bound.
    method
        How the numbers came to be.
    """

    space: SearchSpace
    device: str
    values: np.ndarray
    method: str = "measured"

    @property
    def additive(self) -> AdditiveCost:
        """One joint look-up over all decisions."""
        return AdditiveCost(self.space.radices, [Part(tuple(range(len(self.space.radices))), self.values)])

    def predict(self, architectures: np.ndarray) -> np.ndarray:
        """Look `architectures` up, shape ``(n, decisions)``; returns ``(n,)``."""
        return self.additive.values(architectures)

    def interval(self, architectures: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Unknown: a published table does not say how well its numbers repeat. Two arrays of NaN, ``(n,)``."""
        if not 0 < level < 1:
            raise ValueError(f"a level is between 0 and 1, not {level}")
        unknown = np.full(len(np.atleast_2d(architectures)), np.nan)
        return unknown, unknown.copy()


class TabularEvaluator(Evaluator):
    """Looks scores up, one per architecture of a small space.

    Parameters
    ----------
    space
        The space; every architecture of it has one row.
    scores
        What to search on, in the order of ``space.all()``, shape ``(space.size,)``; NaN where the
        table has none.
    models
        Device (or ``energy@DEVICE``) to its column: become the evaluations' costs, and the `models`
        of a `hwnas.constraints.ConstraintSet`.
    report
        Further columns by name; go into the evaluations' `info`.
    fidelity
        What the score is.
    """

    name: ClassVar[str] = "tabular"

    def __init__(
        self,
        space: SearchSpace,
        scores: np.ndarray,
        models: Mapping[str, TabularLatency] | None = None,
        report: Mapping[str, np.ndarray] | None = None,
        fidelity: str = "a published table",
    ) -> None:
        self.space, self.scores, self.fidelity = space, np.asarray(scores, dtype=np.float64), fidelity
        self.models, self.report = dict(models or {}), dict(report or {})
        for what, column in (("scores", self.scores), *self.report.items()):
            if np.shape(column) != (space.size,):
                raise DataError(f"{what} has {np.shape(column)} values for {space.size} architectures of {space.name}")

    @classmethod
    def nasbench201(
        cls,
        devices: Sequence[str] = (),
        *,
        score: str = SCORE,
        report: str = REPORT,
        folder: str | os.PathLike[str] | None = None,
    ) -> TabularEvaluator:
        """The published NAS-Bench-201 tables.

        Parameters
        ----------
        devices
            Latency (or energy) columns, such as ``"hwnb.c10.pixel3_latency"``.
        score, report
            Columns of accuracies, percent: to search on, and to report as ``info["test"]``.
        folder
            Where ``nb201`` lies; by default `data_folder`.

        Raises
        ------
        DataError, ConfigError
            See `nasbench201_columns`.
        """
        space = get_space("nasbench201")
        columns = nasbench201_columns([score, report, *devices], folder)
        models = {}
        for device in devices:
            analytic = "eyeriss" in device or "fpga" in device
            name = f"energy@{device}" if "energy" in device else device
            models[name] = TabularLatency(space, device, columns[device], "modelled" if analytic else "measured")
        fidelity = f"NAS-Bench-201, column {score} (percent)"
        return cls(space, columns[score], models, {"test": columns[report]}, fidelity)

    def index(self, architectures: np.ndarray | Sequence[Architecture]) -> np.ndarray:
        """Row of each architecture in the table, shape ``(n,)``."""
        matrix = architecture_matrix(self.space.radices, architectures)
        return np.asarray(np.ravel_multi_index(tuple(matrix.T), tuple(self.space.radices.tolist())))

    def evaluate(self, architectures: Iterable[Architecture]) -> list[Evaluation]:
        """Look `architectures` up; scores are NaN where the table has none."""
        wanted = [self.space.validate(architecture) for architecture in architectures]
        if not wanted:
            return []
        rows = self.index(wanted)
        names = {key: key if "@" in key else f"latency@{key}" for key in self.models}
        return [
            Evaluation(
                architecture,
                float(self.scores[row]),
                {name: float(self.models[key].values[row]) for key, name in names.items()},
                {name: float(column[row]) for name, column in self.report.items()},
            )
            for architecture, row in zip(wanted, rows.tolist(), strict=True)
        ]
