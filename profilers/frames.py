"""Messages over a pipe: a JSON object and bytes, each behind its length, neither longer than the reader allows.

It keeps to Python 3.8: it also runs on boards, see `hwnas.profilers.ssh_agent`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Callable  # noqa: UP035 - the other one cannot be subscripted in Python 3.8

__all__ = ["MAX_JSON_BYTES", "FrameError", "pack", "read_frame"]

_LENGTHS = struct.Struct(">II")
#: Most bytes of a message's JSON: a pass of a million samples.
MAX_JSON_BYTES = 32 * 1000 * 1000


class FrameError(Exception):
    """What was read is no message, or a longer one than is allowed."""


def pack(message: Mapping[str, Any], data: bytes = b"") -> bytes:
    """The bytes of a message."""
    text = json.dumps(message).encode("ascii")
    return _LENGTHS.pack(len(text), len(data)) + text + data


def read_frame(read: Callable[[int], bytes], max_data: int) -> tuple[dict[str, Any], bytes] | None:
    """Read one message.

    Parameters
    ----------
    read
        Returns up to so many bytes, and none at the end.
    max_data
        Most bytes that may follow the JSON.

    Returns
    -------
    tuple or None
        The object and the bytes; None if the pipe ended before or within a message.

    Raises
    ------
    FrameError
        If it is no message or too long a one.
    """
    head = _exactly(read, _LENGTHS.size)
    if head is None:
        return None
    text_size, data_size = _LENGTHS.unpack(head)
    if text_size > MAX_JSON_BYTES or data_size > max_data:
        raise FrameError(f"a message of {text_size} + {data_size} bytes is too long")
    text, data = _exactly(read, text_size), _exactly(read, data_size)
    if text is None or data is None:
        return None
    try:
        message = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise FrameError(f"a message is a {type(message).__name__}, not an object")
    return message, data


def _exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    parts = []
    while size:
        part = read(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
