"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, dataclass
from typing import Any

from hwnas.spaces.errors import ConfigError

__all__ = ["PRECISIONS", "SCHEDULES", "TrainConfig"]

SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = {
    "auto": "auto",
    "float32": "float32",
    "off": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained: SGD with Nesterov momentum under a schedule with warm-up.

    Attributes
    ----------
    epochs, batch_size
        Passes over the training images, and images in a step.
    lr, momentum, weight_decay
        Of SGD. Weight decay is not applied to BatchNorm and biases.
    schedule, warmup
        ``cosine``, ``linear`` (as SPOS trains its supernet) or ``constant``; the learning rate rises
        linearly during the first `warmup` epochs.
    label_smoothing
        Share of the target that is spread over all classes.
    ema
        Horizon of an exponential moving average of the weights, in epochs; it has BatchNorm buffers of
        its own, and is what is evaluated and kept. 0 leaves it out.
    clip
        Largest norm of the gradient; 0 does not clip.
    distillation, temperature
        Weight of the divergence from a teacher's softened output against the labels' cross-entropy
        (arXiv 1503.02531), where there is a teacher.
    augment
        Whether training batches are augmented.
    precision
        ``float32``, ``bfloat16``, ``float16`` (CUDA only), or ``auto``: bfloat16 (else float16) on CUDA;
        on a CPU with bfloat16 instructions whichever of bfloat16 and float32 takes one step faster here.
    device
        ``auto`` is CUDA where there is one, else the CPU.
    seed
        Of the order of images, of augmentation, and of paths through a supernet.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    schedule: str = "cosine"
    warmup: float = 1.0
    label_smoothing: float = 0.1
    ema: float = 1.0
    clip: float = 5.0
    distillation: float = 0.5
    temperature: float = 1.0
    augment: bool = True
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "epochs": (1, 1_000_000),
            "batch_size": (2, 1_000_000),
            "lr": (1e-9, 1e3),
            "momentum": (0, 0.99999),
            "weight_decay": (0, 1e3),
            "warmup": (0, 1_000_000),
            "label_smoothing": (0, 0.999),
            "ema": (0, 1_000_000),
            "clip": (0, 1e9),
            "distillation": (0, 1),
            "temperature": (1e-3, 1e3),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"training needs {name} between {low:g} and {high:g}, not {value!r}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"there is no schedule called {self.schedule!r}; choose one of {', '.join(SCHEDULES)}")
        if self.precision not in PRECISIONS:
            choices = ", ".join(dict.fromkeys(PRECISIONS.values()))
            raise ConfigError(f"there is no precision called {self.precision!r}; choose one of {choices}")
        object.__setattr__(self, "precision", PRECISIONS[self.precision])

    @classmethod
    def supernet(cls, **changes: Any) -> TrainConfig:
        """Defaults for a supernet, after SPOS (arXiv 1904.00420): linear decay, no average of the weights.

        SPOS's own 150,000 steps of 1,024 images at a learning rate of 0.5 are
        ``TrainConfig.supernet(epochs=120, batch_size=1024, lr=0.5)`` on ImageNet's 1.28 million images.
        """
        settings: dict[str, Any] = {"epochs": 60, "schedule": "linear", "ema": 0.0}
        return cls(**(settings | changes))

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some settings changed.

        Raises
        ------
        ConfigError
            If there is no such setting, or a value is out of range.
        """
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise ConfigError(f"training has no setting {unknown[0]!r}")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over all epochs."""
        total = self.epochs * steps_per_epoch
        warm = min(self.warmup * steps_per_epoch, total / 2)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        share = (step - warm) / max(1.0, total - warm)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * share))
        return self.lr * (1 - share) if self.schedule == "linear" else self.lr
