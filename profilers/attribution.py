"""Whose time is it? Leads the nodes that a runtime really executes back to the kernels of the model it was given.

Runtimes fuse, rename and insert nodes. What a kernel costs in place includes what the runtime had to
add because of it, so every executed node gets exactly one owner:

- a node that bears the name of a node or tensor of the given model, computes one of its tensors, or
  reads weights that only one of its nodes reads, belongs to that node; a fused group belongs to its
  convolution or matrix product, and its other members cost nothing of their own;
- a change of layout or number format belongs to the side that forces it: the plain-layout or
  floating-point neighbour. Where the change enters the fast form (``ReorderInput``,
  ``QuantizeLinear``) that is the node before it, where it leaves the fast form the node after it;
- anything else inserted belongs to the node after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from hwnas.spaces.errors import ModelError

__all__ = ["ExecutedNode", "attribute", "divide", "owners_by_name"]

#: Inserted nodes that belong to the node before them.
_AFTER = frozenset({"ReorderInput", "QuantizeLinear"})
#: All nodes that only change layout or number format.
_CHANGES = frozenset({"ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "Cast"})
#: How many operators after its convolution a fused group can reach.
_DEPTH = 4
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc|/duplicated|_fused|_quant|_QuantizeLinear|_DequantizeLinear)$")


@dataclass(frozen=True)
class ExecutedNode:
    """A node as the runtime runs it, or as the model gives it: name, operator, tensors read and written."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def owners_by_name(names: Iterable[str], owners: Collection[str]) -> dict[str, str]:
    """Owner of each node name: the longest of `owners` that equals it or is followed by ``/`` in it."""
    known = set(owners)
    found = {}
    for name in names:
        parts = name.split("/")
        for length in range(len(parts), 0, -1):
            if (candidate := "/".join(parts[:length])) in known:
                found[name] = candidate
                break
    return found


def attribute(
    given: Iterable[ExecutedNode], executed: Collection[ExecutedNode], owners: Collection[str] | None = None
) -> dict[str, str]:
    """Give every executed node an owner.

    Parameters
    ----------
    given
        Nodes of the model that the runtime was given.
    executed
        Nodes that it runs, in the order in which it runs them.
    owners
        Names that time is divided among; None takes the names of the given nodes.

    Returns
    -------
    dict
        Name of the executed node to name of its owner; empty if nothing can be traced back.
    """
    trace = _Trace(list(given), owners)
    settled = {node.name: owner for node in executed if (owner := trace.owner(node)) is not None}
    _settle_rest(list(executed), settled)
    return settled


def divide(
    times: Mapping[str, float], owner: Mapping[str, str], owners: Collection[str] | None = None
) -> dict[str, float]:
    """Sum the times of executed nodes by owner, as shares of what could be traced back.

    Parameters
    ----------
    times
        Name of an executed node to its time.
    owner
        What `attribute` found.
    owners
        Names that get a share in any case, 0 if nothing is theirs.

    Raises
    ------
    ModelError
        If less than half of the time can be traced back.
    """
    total = sum(times.values())
    known = sum(duration for name, duration in times.items() if name in owner)
    if total <= 0 or known < 0.5 * total:
        raise ModelError("the runtime's counters cannot be traced back to the model's nodes; name every node")
    shares: dict[str, float] = dict.fromkeys(owners or (), 0.0)
    for name, duration in times.items():
        if name in owner:
            shares[owner[name]] = shares.get(owner[name], 0.0) + duration / known
    return shares


class _Trace:
    """Looks up where an executed node comes from."""

    def __init__(self, given: list[ExecutedNode], owners: Collection[str] | None) -> None:
        self.by_name = {node.name: node for node in given}
        self.writer = {tensor: node for node in given for tensor in node.outputs}
        self.owner_of = owners_by_name(self.by_name, self.by_name if owners is None else owners)
        self.weight_readers: dict[str, set[str]] = {}
        for node in given:
            for tensor in set(node.inputs) - self.writer.keys():
                self.weight_readers.setdefault(tensor, set()).add(node.name)

    def owner(self, node: ExecutedNode) -> str | None:
        if node.op in _CHANGES and self.owner_of.get(node.name) != node.name:
            return None
        source = self._source(node)
        return None if source is None else self.owner_of.get(self._main(node, source).name)

    def _source(self, node: ExecutedNode) -> ExecutedNode | None:
        """The given node that the executed one bears the name, writes the output or reads the weights of."""
        for name in (node.name, *_stems(node.name)):
            if found := self.by_name.get(name) or self.writer.get(name):
                return found
        for tensor in node.outputs:
            if tensor in self.writer:
                return self.writer[tensor]
        for tensor in node.inputs:
            for name in (tensor, *_stems(tensor)):
                if len(only := self.weight_readers.get(name, set())) == 1:
                    return self.by_name[next(iter(only))]
        return None

    def _main(self, node: ExecutedNode, source: ExecutedNode) -> ExecutedNode:
        """The convolution or product of a fused group that is named after its last member, such as an activation.

        That activation may belong to the next block, the group's time does not.
        """
        operator, frontier = _operator(node.op), [source]
        for _ in range(_DEPTH):
            for candidate in frontier:
                if _operator(candidate.op) == operator:
                    return candidate
            tensors = (tensor for candidate in frontier for tensor in candidate.inputs)
            frontier = [self.writer[tensor] for tensor in tensors if tensor in self.writer]
        return source


def _operator(op: str) -> str:
    """The operator without what runtimes prepend to it when they fuse, quantise or reorder."""
    return next((plain for plain in ("Conv", "Gemm", "MatMul") if plain in op), op.removeprefix("QLinear"))


def _stems(name: str) -> list[str]:
    """The name without the suffixes that runtimes add, one removed after the other."""
    found = []
    while (shorter := _SUFFIX.sub("", name)) != name and shorter:
        found.append(name := shorter)
    return found


def _settle_rest(executed: list[ExecutedNode], settled: dict[str, str]) -> None:
    """Hand nodes without an owner to their neighbours, along the tensors first, else along the order of execution."""
    readers: dict[str, list[ExecutedNode]] = {}
    writer: dict[str, ExecutedNode] = {}
    for node in executed:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
        for tensor in node.outputs:
            writer[tensor] = node

    def after(node: ExecutedNode) -> str | None:
        following = (reader for tensor in node.outputs for reader in readers.get(tensor, []))
        return next((settled[reader.name] for reader in following if reader.name in settled), None)

    def before(node: ExecutedNode) -> str | None:
        leading = (writer[tensor] for tensor in node.inputs if tensor in writer)
        return next((settled[lead.name] for lead in leading if lead.name in settled), None)

    def spread(nodes: Iterable[ExecutedNode], look: Callable[[ExecutedNode], str | None]) -> None:
        for node in nodes:
            if node.name not in settled and (owner := look(node)) is not None:
                settled[node.name] = owner

    def entering(node: ExecutedNode) -> bool:
        return node.op in _AFTER

    # chains of inserted nodes settle in one sweep each, because the sweep runs along the chain
    spread([node for node in executed if entering(node)], before)
    spread([node for node in reversed(executed) if not entering(node)], after)
    spread(reversed(executed), after)
    spread(executed, before)
    previous: str | None = next((settled[node.name] for node in executed if node.name in settled), None)
    for node in executed:
        if node.name in settled:
            previous = settled[node.name]
        elif previous is not None:
            settled[node.name] = previous
