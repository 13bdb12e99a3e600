"""What a table was measured on: the record kept in ``device.json``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas.latency_tables.host import host_facts
from hwnas.spaces.errors import TableError

__all__ = ["METHODS", "DeviceRecord", "check_key", "now", "plain_key"]

#: How a latency can come to be; numbers of different methods never share a table.
METHODS = ("measured", "modelled", "vendor-estimate", "simulated")

FORMAT = 1
_MAX_BYTES = 1 << 20
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
#: The facts that must agree for two records to be of the same hardware.
_HARDWARE = ("cpu", "machine", "family", "model", "flags")


def now() -> str:
    """The present time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain_key(text: str) -> str:
    """A device key as tables are called: ``dsp-qnn:57`` is ``dsp-qnn.57``, as not every system has colons in names."""
    return text.replace(":", ".")


def check_key(key: str) -> str:
    """Return `key` if it can name a device and a folder.

    Raises
    ------
    TableError
        If it holds anything but lower-case letters, digits, ``-``, ``_`` and dots between words.
    """
    if len(key) > 200 or not _KEY.fullmatch(key):
        raise TableError(f"{key!r:.80} is not a device key; write one such as cpu-onnxruntime or cpu-onnxruntime.int8")
    return key


@dataclass(frozen=True)
class DeviceRecord:
    """The hardware, the runtime and the protocol behind a table's numbers.

    Attributes
    ----------
    key
        Registered profiler name with its qualifiers, such as ``cpu-onnxruntime.int8``; also the folder's name.
    name
        The hardware in words, such as ``AMD EPYC``.
    device_class
        ``cpu``, ``gpu``, ``dsp``, ``vpu``, ...
    runtime, runtime_version
        The software that runs the models, such as ``onnxruntime`` and ``1.22.0``.
    precision
        ``float32``, ``int8``, ...
    threads, batch
        Threads and batch size of one inference.
    method
        One of `METHODS`.
    host
        Facts about the machine that measured, see `host_facts`.
    protocol
        The measuring protocol's settings.
    created_at
        ISO 8601, UTC.
    """

    key: str
    name: str
    device_class: str
    runtime: str
    runtime_version: str
    precision: str
    threads: int
    batch: int
    method: str
    host: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.method not in METHODS:
            raise TableError(f"{self.method!r:.80} is not a measuring method; it is one of {', '.join(METHODS)}")
        for name in ("threads", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TableError(f"the {name} of the device {self.key} must be a positive integer, not {value!r:.80}")
        for item in fields(self):
            value = getattr(self, item.name)
            kind = {"threads": int, "batch": int, "host": dict, "protocol": dict}.get(item.name, str)
            if not isinstance(value, kind):
                raise TableError(f"the {item.name} of the device {self.key} must be {kind.__name__}, not {value!r:.80}")

    # ------------------------------------------------------------------ comparing

    def same_hardware(self, other: DeviceRecord) -> bool:
        """Whether both records are of the same kind of hardware, so that their numbers may share a table."""
        if (self.device_class, self.name) != (other.device_class, other.name):
            return False
        return all(self.host.get(fact) == other.host.get(fact) for fact in _HARDWARE)

    def is_this_machine(self) -> bool:
        """Whether the record's host is the kind of machine that runs this now.

        A table of another machine can still price networks; its numbers then stand for that machine.
        """
        here = host_facts()
        return all(self.host.get(fact) == here.get(fact) for fact in _HARDWARE)

    def differences(self, other: DeviceRecord) -> list[str]:
        """What keeps the numbers of two records from sharing a table, in words; empty if nothing does."""
        found = []
        names = ("key", "runtime", "runtime_version", "precision", "threads", "batch", "method", "device_class", "name")
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name.replace('_', ' ')} {mine} against {theirs}")
        if not found and not self.same_hardware(other):
            changed = [fact for fact in _HARDWARE if self.host.get(fact) != other.host.get(fact)]
            found = [f"another {fact}" for fact in changed]
        return found

    # ------------------------------------------------------------------ JSON

    def to_json(self) -> str:
        """The text of ``device.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "device.json") -> DeviceRecord:
        """Read the text of a ``device.json``.

        Raises
        ------
        TableError
            If it is not JSON, lacks a field, has an unknown format, or a field is of the wrong kind.
        """
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise TableError(f"{source} is not readable JSON ({error!s:.200}); profile the device again") from error
        if not isinstance(data, dict):
            raise TableError(f"{source} must hold one JSON object; profile the device again")
        version = data.pop("format", None)
        if version != FORMAT:
            raise TableError(f"{source} has format {version!r:.80}, but this hwnas reads format {FORMAT}; update hwnas")
        known = {item.name for item in fields(cls)}
        if missing := sorted(known - data.keys()):
            raise TableError(f"{source} lacks {', '.join(missing)}; profile the device again")
        if not isinstance(data["key"], str):
            raise TableError(f"the key in {source} must be text, not {data['key']!r:.80}")
        return cls(**{name: data[name] for name in known})

    @classmethod
    def load(cls, path: Path) -> DeviceRecord:
        """Read a ``device.json`` file; raises `TableError` like `from_json`."""
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise TableError(f"{path} is larger than {_MAX_BYTES} bytes; this is no device record")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TableError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TableError(f"{path} is not UTF-8 text; profile the device again") from error
        return cls.from_json(text, source=str(path))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
