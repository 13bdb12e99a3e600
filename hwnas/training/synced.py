"""What makes the ranks' shares of a batch one batch: its loss, and the statistics of BatchNorm.

torch's own ``SyncBatchNorm`` computes on GPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hwnas import ranks

__all__ = ["SyncedNorms", "joint"]


def joint(own: Tensor) -> Tensor:
    """The sum of a value over all ranks; each rank's gradient flows into its own part."""
    found: Tensor = _Joint.apply(own)  # type: ignore[no-untyped-call]
    return found


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ARG004 - torch passes it
        return ranks.total(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


class SyncedNorms(TorchFunctionMode):
    """While it lasts, BatchNorm in training mode normalises by the statistics of all ranks' images together.

    It stands in front of ``torch.nn.functional.batch_norm``, so that every module that calls it is synchronised, also
    those that a supernet makes for one pass. All ranks must run the same modules in the same order.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002 - the names are those of torch's function
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(input.ndim) if axis != 1]
    channels = input.shape[1]
    with torch.no_grad():
        own_var, own_mean = torch.var_mean(_wide(input), axes, correction=0)
        count = own_mean.new_tensor([input.numel() / channels])
        gathered = ranks.gather(torch.cat([count, own_mean, own_var]))
        counts, means, variances = torch.split(gathered, [1, channels, channels], 1)
        images = counts.sum()
        mean = (counts * means).sum(0) / images
        # Chan's formula: the difference of large squares would lose digits
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / images
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * images / (images - 1), momentum)
    found: Tensor = _Normalised.apply(input, weight, bias, mean, var, images, eps)  # type: ignore[no-untyped-call]
    return found


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: sums of half-precision numbers lose too much."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _Normalised(torch.autograd.Function):
    """Normalisation by statistics that depend on the images of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        n: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, n)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, var, n = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        # with fixed statistics; the sums over the images are the gradients of weight and bias as well
        slope, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = ranks.total(_wide(torch.cat([by_weight, by_bias]))) / n
        # and through the statistics: less the means over all images of the gradient, and of its product with x
        shrink = (var + ctx.eps).rsqrt()
        factor = scale * shrink**2 * sums[: len(mean)]
        offset = scale * shrink * sums[len(mean) :] - factor * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        slope = _wide(slope).addcmul_(_wide(x), factor.view(shape), value=-1).sub_(offset.view(shape)).to(x.dtype)
        if weight is None:
            return slope, None, None, None, None, None, None
        return slope, by_weight, by_bias, None, None, None, None
