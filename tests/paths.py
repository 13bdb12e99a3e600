"""Where the published tables lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """The folder of published tables, or a skip where it is absent."""
    folder = Path(os.environ.get("HWNAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no published tables at {folder}; set HWNAS_DATA")
    return folder
