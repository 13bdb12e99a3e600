"""Run folders: everything that one search leaves on disk, safe against a kill at any moment.

::

    runs/mobilenet-digits-20261124-101500/
        run.toml            the settings (everything needed to repeat the run), versions, date
        trials.jsonl        one evaluated architecture a line, append-only
        finalists.jsonl     one measured finalist a line, append-only
        state.json          what the strategy needs to go on
        checkpoints/        safetensors
        finalists/          the exported file of each finalist that was trained
        best.json           the answer: architecture, accuracy, costs
        best.onnx           the file to deploy
        backbone.onnx       written by `hwnas export --backbone`
        worker-1.log        errors of a worker process, where there were any
        report.html

Whole files are written atomically, logs only ever grow, so a reader never meets half a file; the
torn last line of a killed writer is cut off when the run is opened for writing again. One process
owns a run at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hwnas.evaluators import Evaluation
from hwnas.plain import for_json, for_toml
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.files import append_line, atomic_write, make_folder, mend_tail

__all__ = ["Run", "checked", "default_run_path"]

FORMAT = 1
#: bytes of ``run.toml``, and of ``state.json`` and ``best.json``
_MOST_SETTINGS, _MOST_JSON = 1_000_000, 256_000_000
_HELD: set[Path] = set()  # POSIX locks do not exclude a second opening in the same process; this does
_PACKAGES = ("hwnas", "numpy", "torch", "onnx", "onnxruntime")


def default_run_path(space: str, data: str, folder: str | os.PathLike[str] = "runs") -> Path:
    """Name a new run ``<folder>/<space>-<data>-<time>``; a number is added while the name is taken.

    Parameters
    ----------
    space
        Name or spec of the space; its parameters are left out of the name.
    data
        Name of a data set, or the path of an image folder, of which the last part is taken.
    """
    parts = (space.split("(")[0].strip(), Path(data).name or "data")
    stem = "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)
    path = Path(folder) / f"{stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


class Run:
    """One run folder; make it with `Run.create` or `Run.open`, and close it (or use ``with``).

    Attributes
    ----------
    path
        The folder.
    settings
        What the run was started with: plain values, lists and tables; settings that were ``None`` are absent.
    info
        The rest of ``run.toml``: ``format``, ``created_at``, ``space`` (canonical text) and a table ``versions``.
    """

    def __init__(self, path: Path, settings: dict[str, Any], info: dict[str, Any]) -> None:
        self.path, self.settings, self.info = path, settings, info
        self._lock: IO[str] | None = None

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(cls, path: str | os.PathLike[str], settings: Mapping[str, Any], *, space: str | None = None) -> Self:
        """Start a run in the folder `path` and own it.

        Parameters
        ----------
        path, settings
            The folder, and what the run is started with.
        space
            Canonical text of the space with what the data shape in it, if it is known.

        Raises
        ------
        ConfigError
            If the folder holds a run or other files already, cannot be written, or is owned by another process.
        """
        import tomli_w

        folder = make_folder(path)
        if (folder / "run.toml").exists():
            raise ConfigError(
                f"{folder} holds a run already; continue it with --resume {folder}, or choose another name"
            )
        if any(entry.name != ".lock" for entry in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and is not a run folder; choose another name")
        versions = {name: metadata.version(name) for name in _PACKAGES}
        info = {"format": FORMAT, "created_at": datetime.now().astimezone().isoformat(timespec="seconds")}
        info |= {} if space is None else {"space": space}
        run = cls(folder, for_toml(settings), {**info, "versions": versions})
        run._acquire()
        try:
            atomic_write(folder / "run.toml", tomli_w.dumps({**run.info, "settings": run.settings}))
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = True) -> Self:
        """Open an existing run: to go on with it (the default), or only to read it.

        Raises
        ------
        ConfigError
            If `path` is no run folder, its ``run.toml`` is damaged, or another process owns it.
        """
        folder = Path(path)
        file = folder / "run.toml"
        if not folder.is_dir():
            raise ConfigError(f"there is no run folder {folder}; check the name")
        if not file.is_file():
            raise ConfigError(f"{folder} is not a run folder: it holds no run.toml")
        try:
            if file.stat().st_size > _MOST_SETTINGS:
                raise ConfigError(f"{file} is larger than {_MOST_SETTINGS // 1_000_000} MB; this is no run")
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file} is damaged ({error}); repair it, or start a new run") from error
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from error
        if content.get("format") != FORMAT:
            raise ConfigError(f"{file} has format {content.get('format')!r}, but this version of hwnas reads {FORMAT}")
        settings = content.pop("settings", None)
        if not isinstance(settings, dict):
            raise ConfigError(f"{file} is damaged (it has no table [settings]); repair it, or start a new run")
        run = cls(folder, settings, content)
        if write:
            make_folder(folder)
            run._acquire()
            try:
                for log in ("trials.jsonl", "finalists.jsonl"):
                    mend_tail(folder / log)
            except BaseException:
                run.close()
                raise
        return run

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than the run was started with.

        Raises
        ------
        ConfigError
            Naming the first setting that differs and both of its values.
        """
        wanted = for_toml(settings)
        for key in [*self.settings, *wanted]:
            ours, theirs = self.settings.get(key), wanted.get(key)
            if ours != theirs:
                raise ConfigError(
                    f"the run {self.path} was started with {key} = {ours!r}, not {theirs!r}; "
                    "resume it with its own settings, or start a new run"
                )

    def _acquire(self) -> None:
        key = self.path.resolve()
        if key in _HELD:  # not even looked at: closing any handle on the file would drop this process's lock
            raise self._in_use(str(os.getpid()))
        if (self.path / ".lock").is_symlink():
            raise ConfigError(f"{self.path / '.lock'} is a link, which hwnas does not write to; delete it")
        stream = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the run
        try:
            # A record lock and not flock(): it is not inherited by forked workers that may outlive a killed owner.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with stream:
                stream.seek(0)
                raise self._in_use(stream.read().strip()) from error
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        self._lock = stream
        _HELD.add(key)

    def _in_use(self, owner: str) -> ConfigError:
        who = f"process {owner}" if owner else "another process"
        return ConfigError(f"the run {self.path} is in use by {who}; wait until it ends, or stop it")

    def close(self) -> None:
        """Give the folder back; harmless when it is not owned."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            _HELD.discard(self.path.resolve())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ trials and finalists

    def add_trial(self, evaluation: Evaluation) -> None:
        """Append one evaluated architecture to ``trials.jsonl``; on return it is on the disk."""
        append_line(self.path / "trials.jsonl", _dumps(evaluation.to_json()))

    def trials(self) -> list[Evaluation]:
        """All evaluated architectures, in the order of their evaluation; a torn last line is left out.

        Raises
        ------
        ConfigError
            If a line is damaged; the text gives its number.
        """
        return list(self.iter_trials())

    def iter_trials(self) -> Iterator[Evaluation]:
        """What `trials` lists, one at a time: a long run need not fit in memory."""
        for number, entry in self._read_log("trials.jsonl"):
            try:
                yield Evaluation.from_json(entry)
            except ModelError as error:
                raise self._damaged("trials.jsonl", number, "it does not describe an evaluation") from error

    def add_finalist(self, finalist: Mapping[str, Any]) -> None:
        """Append one finalist that was trained, exported and measured to ``finalists.jsonl``.

        Keys that `hwnas report` shows: ``architecture`` (list of ints), ``score`` (during the search),
        ``accuracy`` (of the exported file on the test set), ``fits`` (bool: every constraint holds as
        measured) and ``costs``: one table per constraint text with ``bound``, ``predicted``,
        ``interval``, ``measured`` and ``method``. Further keys are kept.
        """
        append_line(self.path / "finalists.jsonl", _dumps(finalist))

    def finalists(self) -> list[dict[str, Any]]:
        """All measured finalists, in the order in which they were measured.

        Raises
        ------
        ConfigError
            If a line is damaged; the text gives its number.
        """
        found = []
        for number, entry in self._read_log("finalists.jsonl"):
            if not isinstance(entry.get("architecture"), list):
                raise self._damaged("finalists.jsonl", number, "it does not describe a finalist")
            found.append(entry)
        return found

    def _read_log(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        path = self.path / name
        if not path.exists():
            return
        try:
            with open(path, "rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if not line.endswith(b"\n"):  # what follows the last break is a torn line
                        return
                    try:
                        entry = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise self._damaged(name, number, "it is not JSON") from error
                    if not isinstance(entry, dict):
                        raise self._damaged(name, number, "it is not a JSON object")
                    yield number, entry
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error

    def _damaged(self, name: str, number: int, why: str) -> ConfigError:
        return ConfigError(f"line {number} of {self.path / name} is damaged: {why}; delete it to go on without it")

    # ------------------------------------------------------------------ whole files

    @property
    def state(self) -> dict[str, Any] | None:
        """What `save_state` wrote last; ``None`` before that."""
        return self._read_json("state.json")

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace ``state.json``: anything that JSON can hold."""
        atomic_write(self.path / "state.json", _dumps(state) + "\n")

    @property
    def best(self) -> dict[str, Any] | None:
        """The content of ``best.json``; ``None`` while the run has not ended."""
        return self._read_json("best.json")

    def save_best(self, best: Mapping[str, Any], model: bytes | None = None) -> None:
        """Write ``best.onnx`` (if given) and then ``best.json``, whose presence means that the run is complete."""
        if model is not None:
            atomic_write(self.onnx, model)
        atomic_write(self.path / "best.json", json.dumps(for_json(best), indent=2) + "\n")

    @property
    def onnx(self) -> Path:
        """Where the model to deploy lies."""
        return self.path / "best.onnx"

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint called `name`; its folder exists after the call.

        Raises
        ------
        ConfigError
            If the name would lead out of that folder.
        """
        if not re.fullmatch(r"[\w.-]+", name) or not name.strip("."):
            raise ConfigError(f"{name!r} cannot name a checkpoint; write letters, digits, '-', '_' and '.'")
        return make_folder(self.path / "checkpoints") / f"{name}.safetensors"

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            if path.stat().st_size > _MOST_JSON:
                raise ConfigError(f"{path} is larger than {_MOST_JSON // 1_000_000} MB; delete it to go on without it")
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is damaged ({error}); delete it to go on without it") from error
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is damaged (it is not a JSON object); delete it to go on without it")
        return content


def _dumps(content: Mapping[str, Any]) -> str:
    return json.dumps(for_json(content), separators=(",", ":"))


def checked(cost: Mapping[str, Any]) -> Any:
    """What the device gave for one cost, by the cost's ``method``; None if it was not asked.

    Runs of earlier versions have it under ``measured``.
    """
    return cost.get("checked", cost.get("measured"))
