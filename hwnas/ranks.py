"""Several processes that train one network together: the ranks that ``torchrun`` starts.

Rank 0 leads. It alone reads and writes files, prints, exports and measures; the others do their share of each batch
that is trained on or scored, and otherwise wait for what it does next. Without ``torchrun`` there is one rank, and
every function here returns at once.

Gradients are summed by one all-reduce a step (`sum_gradients`) and not by ``DistributedDataParallel``: the paths of a
supernet leave most parameters without a gradient, others in every step, which that wrapper must search for, and its
forward pass takes no path. What is lost is that it sends while the backward pass is still computing.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hwnas.spaces.errors import ConfigError, HwnasError, RankError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Parameter

__all__ = [
    "WHOLE",
    "RelayedError",
    "Share",
    "broadcast",
    "broadcast_tensors",
    "check_same",
    "gather",
    "leading",
    "leads",
    "local_rank",
    "local_size",
    "order",
    "orders",
    "rank",
    "share",
    "size",
    "start",
    "sum_gradients",
    "total",
]

#: What ``torchrun`` sets, and whoever starts ranks without it.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Seconds that ranks wait for each other while they train.
TIMEOUT = 600.0
#: Measuring on a device can take hours, and the others wait; a rank that ends is noticed at once all the same.
PATIENCE = timedelta(days=30)
#: Seconds to tell the others that the search has stopped.
FAREWELL = 5.0
#: Bytes of gradients that are sent at a time.
BUCKET = 64_000_000

_patient: Any = None  # the group that orders are sent in; None while there is one rank
_timeout = TIMEOUT


class RelayedError(HwnasError):
    """What rank 0 stopped with, on the other ranks; rank 0 says it itself."""


@dataclass(frozen=True)
class Share:
    """One rank's part of every batch."""

    rank: int = 0
    ranks: int = 1

    def part(self, count: int) -> slice:
        """Which of `count` images are this rank's; the parts of two ranks differ by one image at most."""
        return slice(count * self.rank // self.ranks, count * (self.rank + 1) // self.ranks)

    def weight(self, count: int) -> float:
        """The part over `count`: what this rank's mean counts in the mean of all.

        Raises
        ------
        ConfigError
            If there are fewer images than ranks.
        """
        if count < self.ranks:
            raise ConfigError(
                f"a batch of {count} images cannot be shared by {self.ranks} ranks; start fewer, or give larger batches"
            )
        part = self.part(count)
        return float(part.stop - part.start) / count

    def of_steps(self, order: np.ndarray, count: int) -> np.ndarray:
        """This rank's part of each step of `count` indices, one step after the other."""
        return order if self.ranks == 1 else order.reshape(-1, count)[:, self.part(count)].ravel()

    def of_all(self, count: int) -> np.ndarray | None:
        """This rank's part of `count` indices in their own order; None for all of them."""
        import numpy as np

        part = self.part(count)
        return None if self.ranks == 1 else np.arange(part.start, part.stop)


#: Of a process on its own.
WHOLE = Share()


# ---------------------------------------------------------------------- who is there


def start(timeout: float = TIMEOUT) -> None:
    """Join the other ranks, if ``torchrun`` started this process as one of several; harmless to call again.

    `hwnas.search` and `hwnas.resume` do so themselves; a script that trains under ``torchrun`` calls it first, on
    every rank.

    Parameters
    ----------
    timeout
        Seconds after which a rank that does not answer is given up.

    Raises
    ------
    RankError
        If the others cannot be reached.
    """
    global _patient, _timeout
    if _patient is not None or any(name not in os.environ for name in VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        return
    import torch
    from torch import distributed

    _timeout = timeout
    with _answering():
        if not distributed.is_initialized():
            # gloo carries what lies in main memory, and GPU tensors too where ranks share a GPU, which NCCL refuses
            own_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= int(
                os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
            )
            backend = "cpu:gloo,cuda:nccl" if own_gpus else "gloo"
            distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
            atexit.register(_leave)
        _patient = distributed.new_group(backend="gloo", timeout=PATIENCE)


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _patient is None else int(os.environ["RANK"])


def size() -> int:
    """How many ranks train together; 1 before `start`."""
    return 1 if _patient is None else int(os.environ["WORLD_SIZE"])


def local_rank() -> int:
    """Number of this process on its machine: the GPU that it uses."""
    return 0 if _patient is None else int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


def local_size() -> int:
    """How many ranks share this machine."""
    return 1 if _patient is None else int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))


def leads() -> bool:
    """Whether this is rank 0, which alone touches files and prints."""
    return rank() == 0


def share() -> Share:
    """This rank's part of each batch."""
    return Share(rank(), size())


@contextmanager
def _answering() -> Iterator[None]:
    """Say in one sentence that another rank is gone."""
    try:
        yield
    except RuntimeError as error:  # what every backend raises: connection closed, timed out
        reason = str(error).split("\n")[0].removesuffix(".")
        raise RankError(
            f"another rank ended or did not answer within {_timeout:g} s ({reason}); "
            "see what it said, and resume the run with any number of ranks"
        ) from error


# ---------------------------------------------------------------------- tensors


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place; the same to the bit on each."""
    if _patient is not None:
        from torch import distributed

        with _answering():
            distributed.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, stacked in their order."""
    import torch

    found = [torch.empty_like(tensor) for _ in range(size())]
    if _patient is None:
        return tensor[None]
    from torch import distributed

    with _answering():
        distributed.all_gather(found, tensor)
    return torch.stack(found)


def sum_gradients(parameters: Iterable[Parameter]) -> None:
    """Sum over all ranks the gradients of the parameters that have one, which must be the same on every rank."""
    if _patient is None:
        return
    import torch

    bucket: list[Tensor] = []
    filled = 0

    def send() -> None:
        nonlocal filled
        if bucket:
            flat = total(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, summed in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view(gradient.shape))
        bucket.clear()
        filled = 0

    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            if bucket and gradient.dtype != bucket[0].dtype:
                send()
            bucket.append(gradient)
            filled += gradient.numel() * gradient.element_size()
            if filled >= BUCKET:
                send()
    send()


def broadcast_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rank 0's tensors on every rank, in main memory on those that receive them."""
    import torch
    from torch import distributed

    shapes = broadcast({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()})
    found = {}
    for name, (dtype, shape) in shapes.items():
        if leads():
            tensor = tensors[name].detach().cpu().contiguous()
        else:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if tensor.numel():
            with _answering():
                distributed.broadcast(tensor, 0)
        found[name] = tensor
    return found


# ---------------------------------------------------------------------- plain values


def broadcast(value: Any = None, group: Any = None) -> Any:
    """Rank 0's `value`, JSON-able, on every rank; not by pickle, which torch would use."""
    if _patient is None:
        return value
    import torch
    from torch import distributed

    content = json.dumps(value).encode() if leads() else b""
    length = torch.tensor([len(content)])
    with _answering():
        distributed.broadcast(length, 0, group=group)
        if leads():
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        else:
            data = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(data, 0, group=group)
    return value if leads() else json.loads(data.numpy().tobytes())


def check_same(value: Any, what: str) -> None:
    """Refuse to go on unless `value`, JSON-able, is the same on every rank.

    Raises
    ------
    RankError
        Naming `what` differs.
    """
    if _patient is None:
        return
    import torch

    digest = hashlib.sha256(json.dumps(value).encode()).digest()
    mine = torch.tensor([int.from_bytes(digest[:6])])  # sums of such numbers are exact
    if not bool((gather(mine) == mine).all()):
        raise RankError(
            f"{what} differ between ranks; their machines, data or versions of torch are not alike, train on like ones"
        )


# ---------------------------------------------------------------------- who leads, and who follows


def order(name: str, **content: Any) -> None:
    """On rank 0: tell the others what to do next; they get it from `orders`."""
    if _patient is not None:
        broadcast([name, content], _patient)


def orders() -> Iterator[tuple[str, dict[str, Any]]]:
    """On the other ranks: what rank 0 says, for as long as it says something.

    Raises
    ------
    RelayedError
        What rank 0 stopped with.
    RankError
        If rank 0 ended without a word.
    """
    while True:
        name, content = broadcast(None, _patient)
        if name == "stop":
            raise RelayedError(f"rank 0 stopped: {content['why']}")
        yield name, content


@contextmanager
def leading() -> Iterator[None]:
    """On rank 0: if what it does fails, the others are told, and do not wait for ever."""
    try:
        yield
    except BaseException as error:
        # those that do not listen any more have failed, too, or notice that this process ends
        with contextlib.suppress(RankError):
            _stop(str(error) or type(error).__name__)
        raise


def _stop(why: str) -> None:
    if _patient is None:
        return
    import torch
    from torch import distributed

    content = bytearray(json.dumps(["stop", {"why": why}]).encode())
    with _answering():
        for data in (torch.tensor([len(content)]), torch.frombuffer(content, dtype=torch.uint8)):
            distributed.broadcast(data, 0, group=_patient, async_op=True).wait(timedelta(seconds=FAREWELL))
