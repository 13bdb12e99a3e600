"""Checkpoints: one safetensors file with the tensors, and JSON in its header for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hwnas.spaces.errors import ModelError
from hwnas.spaces.files import atomic_write

__all__ = ["load_checkpoint", "load_meta", "load_weights", "save_checkpoint"]

FORMAT = "hwnas-checkpoint-1"
#: a header is a few kilobytes; one that claims more is damaged
MOST_HEADER = 100_000_000


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write tensors and JSON-able `meta` to one file, atomically: readers see the old file or the new one."""
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return atomic_write(path, save(kept, metadata={"format": FORMAT, "meta": json.dumps(meta)}))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Returns
    -------
    tuple
        Tensors by name, and the metadata.

    Raises
    ------
    ModelError
        If the file is missing, damaged, of another program, or a pickle (which is never opened).
    """
    return _read(Path(path), tensors=True)


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a checkpoint alone; errors are those of `load_checkpoint`."""
    return _read(Path(path), tensors=False)[1]


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            if header.get("format") != FORMAT:
                raise ModelError(f"{path} is not a checkpoint of this hwnas; it says {header.get('format')!r}")
            meta = json.loads(header["meta"])
            if not isinstance(meta, dict):
                raise ModelError(f"{path} is not a checkpoint of this hwnas: its notes are no object")
            wanted = stream.keys() if tensors else ()
            found = {name: stream.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the checkpoint {path} cannot be read ({error}); remove it and train again") from error
    return found, meta


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A network's state dict from a training checkpoint: its best weights, else its last.

    Raises
    ------
    ModelError
        As `load_checkpoint`, or if it holds no weights.
    """
    tensors, _ = load_checkpoint(path)
    for prefix in ("best.", "model."):
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if state:
            return state
    raise ModelError(f"the checkpoint {path} holds no weights of a network")


def _refuse_pickle(path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            start = stream.read(10)
            size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelError(f"{path} is a pickle, which hwnas never opens; give a .safetensors checkpoint")
    claimed = int.from_bytes(start[:8], "little")
    if len(start) < 10 or start[8:9] != b"{" or claimed > min(size, MOST_HEADER):
        raise ModelError(f"{path} is not a safetensors file, or is cut short; remove it and train again")
