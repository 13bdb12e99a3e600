"""The loop that single networks and supernets share: steps, weight average, checkpoints, resuming.

Everything random in an epoch follows from the seed and the epoch's number, so that a run that was
killed and goes on from its checkpoint ends where an uninterrupted one ends, to the bit where torch
itself repeats to the bit (float32, one thread).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas import ranks
from hwnas.data.base import Dataset
from hwnas.spaces.errors import ModelError
from hwnas.training.checkpoint import load_checkpoint, save_checkpoint
from hwnas.training.config import TrainConfig
from hwnas.training.precision import autocast, choose_precision, pick_device
from hwnas.training.scoring import Score
from hwnas.training.synced import SyncedNorms, joint

__all__ = ["Companion", "EpochRecord", "Loop", "Progress", "distillation_loss"]

#: Called as ``progress(done, total, text)``, counting steps; the text before ``": "`` names the stage.
Progress = Callable[[float, float, str], None]

#: Settings that may differ when a run goes on: they say where it runs, not what it computes.
PLACE = ("device",)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to: mean training loss, and the validation score where there was one."""

    epoch: int
    loss: float
    accuracy: float | None = None
    valid_loss: float | None = None


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of softened outputs, times the temperature squared (Hinton et al., arXiv 1503.02531, section 2).

    Parameters
    ----------
    logits, teacher
        Logits, ``(B, classes)``; no gradient flows into `teacher`.
    temperature
        What both are divided by.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    target = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


class Companion(Protocol):
    """Something whose state is kept in the checkpoint with the weights, so that both go on from the same moment."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, JSON-able."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Loop:
    """One training run.

    Use it as ``for epoch in loop: for images, labels in loop.batches(): ... loop.step(loss)``, and close each
    epoch with `end_epoch`. Epochs that a checkpoint has behind it are not iterated again.

    With several ranks, each has such a loop and its share of every batch; computed in `forward` and made `joint`, a
    loss is that of the whole batch, and a step is the step of a process on its own, up to the order of sums. Only rank
    0 reads and writes the checkpoint, which does not depend on the number of ranks.

    Parameters
    ----------
    module
        The network; it is moved to the device and to channels-last order (2.5 times as fast on CPUs).
    data
        What it trains on.
    config
        Settings.
    checkpoint
        File to resume from if it exists, and to write after each epoch.
    kind
        What is trained, for the checkpoint: ``"network"`` or ``"supernet"``.
    progress
        Called after every step.
    stage
        Name of the stage for `progress`.
    save_seconds
        Do not write the checkpoint more often than this; 0 writes it after every epoch.
    companion
        Saved and resumed with the weights, such as the strategy that trains them.

    Raises
    ------
    ConfigError
        If a batch has fewer images than there are ranks.
    ModelError
        If the checkpoint is damaged, or was made with another network, other data or other settings.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Dataset,
        config: TrainConfig,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        kind: str = "network",
        progress: Progress | None = None,
        stage: str = "training",
        save_seconds: float = 5.0,
        companion: Companion | None = None,
    ) -> None:
        self.companion = companion
        self.device = pick_device(config.device)
        self.module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data, self.config, self.kind = data, config, kind
        self.path = None if checkpoint is None else Path(checkpoint)
        self.progress = progress if ranks.leads() else None
        self.stage, self.save_seconds = stage, save_seconds
        #: This rank's part of each batch, and what its mean counts in that of the batch.
        self.share = ranks.share()
        self.weight = self.share.weight(data.step_images(config.batch_size))
        self.steps = data.steps(config.batch_size)
        self.epoch, self.seconds = 0, 0.0
        self.history: list[EpochRecord] = []
        self.best: Score | None = None
        self.best_state: dict[str, Tensor] = {}
        self.precision: str | None = None

        self.parameters = dict(module.named_parameters())
        self.floats = {name: t for name, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}
        self.average = {name: t.detach().clone() for name, t in self.floats.items()} if config.ema else {}
        self.optimizer = self._make_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        self._losses: list[Tensor] = []
        self._saved = -math.inf
        self._text = ""
        if self.path is not None and ranks.leads() and self.path.exists():
            self._resume()
        self._align()

    def _make_optimizer(self) -> torch.optim.SGD:
        decayed = [p for p in self.parameters.values() if p.ndim > 1]
        others = [p for p in self.parameters.values() if p.ndim <= 1]
        config = self.config
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        momentum = config.momentum
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
        if momentum:
            # The fused step makes buffers only when none exists, but the paths of a supernet arrive one by one.
            for parameter in self.parameters.values():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    # ------------------------------------------------------------------ the loop

    def settle_precision(self, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Decide what ``precision="auto"`` means here, by `loss_of` one batch; a resumed run has decided."""
        if self.precision is None:
            images, labels = next(iter(self._batches(0)))
            self.module.train()
            chosen = choose_precision(self.config.precision, self.device, self.module, lambda: loss_of(images, labels))
            self.precision = ranks.broadcast(chosen)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def __iter__(self) -> Iterator[int]:
        devices = [self.device] if self.device.type == "cuda" else []
        for epoch in range(self.epoch, self.config.epochs):
            start = time.perf_counter()
            self.module.train()
            with torch.random.fork_rng(devices=devices):
                # dropout and the like: other images, other draws
                torch.manual_seed(int(self.rng(epoch, 1).integers(2**62)) + self.share.rank)
                yield epoch
            self.seconds += time.perf_counter() - start
            if self.epoch <= epoch:
                raise RuntimeError("end_epoch was not called")
            self._save(final=self.epoch == self.config.epochs)

    def rng(self, epoch: int, stream: int) -> np.random.Generator:
        """A generator that belongs to one epoch and one purpose."""
        return np.random.default_rng([self.config.seed, epoch, stream])

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        return self.data.training_batches(
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            device=self.device,
            augment=config.augment,
            share=self.share,
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of the current epoch, or this rank's share of them."""
        return self._batches(self.epoch)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Context of the forward pass: the precision, and BatchNorm over the images of all ranks."""
        norms = SyncedNorms() if self.share.ranks > 1 else nullcontext()
        with autocast(self.precision or "float32", self.device), norms:
            yield

    def joint(self, loss: Tensor, weight: float | None = None) -> Tensor:
        """The loss of the whole batch from this rank's mean over its share.

        Parameters
        ----------
        loss
            A scalar.
        weight
            What the share counts in the batch; that of a training batch if not given.
        """
        return loss if self.share.ranks == 1 else joint(loss * (self.weight if weight is None else weight))

    def step(self, loss: Tensor) -> None:
        """Backward pass of `loss`, and one step of the optimiser; nothing waits for the device."""
        self.backward(loss)
        self.update(loss)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to what the next `update` steps along."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser along the gradients that were added up; `loss` is for the record."""
        config, done = self.config, self.epoch * self.steps + len(self._losses)
        ranks.sum_gradients(self.parameters.values())
        if config.clip:
            self.scaler.unscale_(self.optimizer)
            active = [p for p in self.parameters.values() if p.grad is not None]
            nn.utils.clip_grad_norm_(active, config.clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(done, self.steps)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            # early on, an average with the full horizon would remember the random start
            decay = min(math.exp(-1 / (config.ema * self.steps)), (1 + done) / (10 + done))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.floats.values()), 1 - decay)
        self._losses.append(loss.detach())
        if self.progress is not None:
            text = f"{self.stage}: epoch {self.epoch + 1}/{config.epochs}{self._text}"
            self.progress(done + 1, config.epochs * self.steps, text)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averaged weights in place, in evaluation mode."""
        self._swap()
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train()
            self._swap()

    def _swap(self) -> None:
        for name, average in self.average.items():
            tensor = self.floats[name]
            self.average[name], tensor.data = tensor.data, average

    def end_epoch(self, score: Score | None = None) -> None:
        """Close an epoch, with the validation score of the averaged network if there is one.

        Raises
        ------
        ModelError
            If the loss is not finite any more.
        """
        losses = torch.stack(self._losses) if self._losses else torch.zeros(1)
        loss = float(losses.float().mean())
        self._losses = []
        if not math.isfinite(loss):
            raise ModelError(
                f"training diverged in epoch {self.epoch + 1} (the loss is {loss}); lower lr from {self.config.lr:g}"
            )
        record = EpochRecord(self.epoch + 1, loss)
        if score is not None:
            record = EpochRecord(self.epoch + 1, loss, score.accuracy, score.loss)
            if score.better_than(self.best):
                self.best = score
                with self.averaged():
                    self.best_state = {name: t.detach().clone() for name, t in self.module.state_dict().items()}
        self.history.append(record)
        self._text = f", loss {loss:.3f}" + ("" if score is None else f", valid {100 * score.accuracy:.1f} %")
        self.epoch += 1

    def load_best(self) -> None:
        """Put the best weights (or, without validation, the averaged ones) into the network."""
        if self.best_state:
            self.module.load_state_dict(self.best_state)
        elif self.average:
            self._swap()
            self.average = {}
        self.module.eval()

    # ------------------------------------------------------------------ checkpoints

    def _identity(self) -> dict[str, Any]:
        config = {key: value for key, value in self.config.as_dict().items() if key not in PLACE}
        return {"kind": self.kind, "config": config, "data": self.data.identity}

    def _save(self, *, final: bool) -> None:
        if self.path is None or not ranks.leads():
            return
        if final or time.monotonic() - self._saved >= self.save_seconds:
            save_checkpoint(self.path, *self._state())
            self._saved = time.monotonic()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next epochs depend on."""
        tensors: dict[str, Tensor] = {f"model.{name}": t for name, t in self.module.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.items()}
        tensors |= {f"best.{name}": t for name, t in self.best_state.items()}
        for name, parameter in self.parameters.items():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        meta = {
            **self._identity(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "precision": self.precision,
            "scaler": self.scaler.state_dict(),
            "history": [asdict(record) for record in self.history],
            "best": None if self.best is None else asdict(self.best),
            "companion": None if self.companion is None else self.companion.state_dict(),
        }
        return tensors, meta

    def _align(self) -> None:
        """Let every rank begin as rank 0 does."""
        if self.share.ranks > 1:
            tensors, meta = self._state()
            tensors, meta = ranks.broadcast_tensors(tensors), ranks.broadcast(meta)
            if not ranks.leads():
                self._restore(tensors, meta)

    def _resume(self) -> None:
        assert self.path is not None
        tensors, meta = load_checkpoint(self.path)
        self._compare(self._identity(), meta)
        self._restore(tensors, meta)

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        state = self.module.state_dict()
        wanted = {f"model.{name}": t for name, t in state.items()}
        wanted |= {f"average.{name}": t for name, t in self.average.items()}
        for name, parameter in self.parameters.items():
            if self.config.momentum:
                wanted[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        for name, target in wanted.items():
            if name not in tensors or tensors[name].shape != target.shape:
                raise ModelError(
                    f"the checkpoint {self.path} is of another network ({name} does not fit); remove it or train that"
                )
        with torch.no_grad():
            for name, target in wanted.items():
                target.copy_(tensors[name])
        try:
            self.history = [EpochRecord(**record) for record in meta["history"]]
            self.best = None if meta["best"] is None else Score(**meta["best"])
            self.epoch, self.seconds, self.precision = int(meta["epoch"]), float(meta["seconds"]), meta["precision"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the checkpoint {self.path} is incomplete ({error}); remove it and train again"
            ) from error
        if self.companion is not None:
            self.companion.load_state_dict(meta.get("companion") or {})
        self.best_state = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}

    def _compare(self, mine: dict[str, Any], meta: dict[str, Any]) -> None:
        pairs = {"kind": (meta.get("kind"), mine["kind"])}
        for part in ("config", "data"):
            theirs = meta.get(part) or {}
            pairs |= {key: (theirs.get(key), value) for key, value in mine[part].items()}
        for key, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise ModelError(
                    f"the checkpoint {self.path} was made with {key}={theirs}, not {ours}; "
                    "use the same settings, or remove it to start afresh"
                )
