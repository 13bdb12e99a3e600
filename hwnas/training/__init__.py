"""Training: single networks, supernets, and what both share.

Names are loaded when they are first used, so that reading settings does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
    from hwnas.training.config import TrainConfig
    from hwnas.training.mixture import train_mixture
    from hwnas.training.scoring import Score, evaluate
    from hwnas.training.shared import train_shared
    from hwnas.training.supernet import BoxSampler, Calibration, Teacher, largest, recalibrated, train_supernet
    from hwnas.training.trainer import TrainResult, train

_HOME = {
    "BoxSampler": "supernet",
    "Calibration": "supernet",
    "Score": "scoring",
    "Teacher": "supernet",
    "TrainConfig": "config",
    "TrainResult": "trainer",
    "evaluate": "scoring",
    "largest": "supernet",
    "load_checkpoint": "checkpoint",
    "load_weights": "checkpoint",
    "recalibrated": "supernet",
    "save_checkpoint": "checkpoint",
    "train": "trainer",
    "train_mixture": "mixture",
    "train_shared": "shared",
    "train_supernet": "supernet",
}

__all__ = [
    "BoxSampler",
    "Calibration",
    "Score",
    "Teacher",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "largest",
    "load_checkpoint",
    "load_weights",
    "recalibrated",
    "save_checkpoint",
    "train",
    "train_mixture",
    "train_shared",
    "train_supernet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
