"""Files that survive a crash: atomic writes, append-only logs that mend a torn last line, one writer at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwnas.spaces.errors import ConfigError, HwnasError

__all__ = ["append_line", "atomic_write", "held", "make_folder", "mend_tail"]


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create `path` with its parents and return it.

    Raises
    ------
    ConfigError
        If the folder cannot be created or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the folder {folder}: {error.strerror}; choose another place") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"the folder {folder} is not writable; choose another place or change its permissions")
    return folder


def atomic_write(path: str | os.PathLike[str], data: str | bytes) -> Path:
    """Write `data` to a temporary file beside `path`, then rename it: readers see old or new, never half."""
    target = Path(path)
    make_folder(target.parent)
    raw = data.encode() if isinstance(data, str) else data
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes private files
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}; check the disk and its permissions") from error
    return target


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line to a log and flush it to disk; a kill can tear at most this line."""
    if "\n" in line:
        raise ValueError("a log line must not contain a line break")
    target = Path(path)
    make_folder(target.parent)
    _refuse_link(target)
    try:
        with open(target, "ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigError(f"cannot append to {target}: {error.strerror}; check the disk and its permissions") from error


def mend_tail(path: str | os.PathLike[str]) -> int:
    """Cut a torn last line (one without a line break) off a log; return the number of bytes cut."""
    target = Path(path)
    if not target.exists():
        return 0
    _refuse_link(target)
    with open(target, "rb+") as stream:
        data = stream.read()
        keep = data.rfind(b"\n") + 1
        stream.truncate(keep)
    return len(data) - keep


def _refuse_link(target: Path) -> None:
    """A folder from elsewhere may hold a link in the place of a log; what it leads to is not ours to change."""
    if target.is_symlink():
        raise ConfigError(f"{target} is a link, and hwnas only adds to files of its own; put the file itself there")


@contextmanager
def held(path: Path, refusal: HwnasError) -> Iterator[None]:
    """Hold a file for one process; released by the system when the process dies.

    Parameters
    ----------
    path
        An existing file, which is not changed.
    refusal
        Raised if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock: there a second writer is not noticed
        yield
        return
    with open(path, "rb+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise refusal from error
        yield
