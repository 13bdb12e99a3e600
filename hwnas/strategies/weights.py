"""Weights of a policy network: trained by Adam, kept in a strategy's state as text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Weights", "uniform"]


def uniform(shapes: Sequence[Sequence[int]], seed: int, bound: float = 0.1) -> list[Tensor]:
    """Tensors of the given shapes, uniform between ``-bound`` and ``bound``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.rand(*shape, generator=generator) - 1) * bound for shape in shapes]


class Weights:
    """Tensors that Adam moves (Kingma and Ba, arXiv 1412.6980, algorithm 1; decay rates 0.9 and 0.999).

    Parameters
    ----------
    tensors
        The initial values, float32; they are changed in place.
    learning_rate
        Of Adam.
    """

    def __init__(self, tensors: Sequence[Tensor], learning_rate: float) -> None:
        import torch

        self.tensors = [tensor.requires_grad_() for tensor in tensors]
        self.learning_rate = learning_rate
        self._moments = [torch.zeros(2, *tensor.shape) for tensor in tensors]
        self._updates = 0

    def descend(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar."""
        import torch

        self._updates += 1
        first, second = 1 - 0.9**self._updates, 1 - 0.999**self._updates
        gradient = torch.autograd.grad(loss, self.tensors)
        with torch.no_grad():
            for tensor, moments, slope in zip(self.tensors, self._moments, gradient, strict=True):
                moments[0].mul_(0.9).add_(slope, alpha=0.1)
                moments[1].mul_(0.999).addcmul_(slope, slope, value=0.001)
                tensor -= self.learning_rate * moments[0] / first / ((moments[1] / second).sqrt() + 1e-8)

    def to_json(self) -> dict[str, Any]:
        """Values and moments, exactly."""
        tensors = [tensor.detach() for tensor in self.tensors] + self._moments
        flat = np.concatenate([tensor.numpy().ravel() for tensor in tensors]).astype("<f4")
        return {"updates": self._updates, "values": base64.b64encode(flat.tobytes()).decode()}

    def load(self, data: dict[str, Any]) -> None:
        """Take over what `to_json` returned; raises ValueError, KeyError or TypeError if it does not fit."""
        import torch

        flat = np.frombuffer(base64.b64decode(data["values"], validate=True), dtype="<f4")
        tensors = [*self.tensors, *self._moments]
        if len(flat) != sum(tensor.numel() for tensor in tensors):
            raise ValueError("the weights do not fit the network")
        ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
        with torch.no_grad():
            for tensor, values in zip(tensors, np.split(flat, ends), strict=True):
                tensor.copy_(torch.from_numpy(values.copy()).reshape(tensor.shape))
        self._updates = int(data["updates"])
