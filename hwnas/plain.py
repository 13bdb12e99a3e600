"""Plain values: turning what Python code holds into what JSON and TOML files can hold."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["for_json", "for_toml"]


def for_json(value: Any) -> Any:
    """Mappings, sequences, numpy values and paths as JSON holds them.

    JSON has no NaN or infinity; such numbers become null, so that every reader opens the file.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def for_toml(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as TOML holds them: lists for tuples, text for paths; what is ``None`` is left out."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return for_toml(value)
        if isinstance(value, list | tuple):
            return [convert(item) for item in value]
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    return {key: convert(value) for key, value in settings.items() if value is not None}
