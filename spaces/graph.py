"""Graphs: kernels wired together. A network, one block and one kernel are all graphs.

So all three can be counted, priced, trained, exported and measured by the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np

from hwnas.spaces.errors import ModelError
from hwnas.spaces.kernel import Kernel, Shape

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.spaces.module import GraphModule

#: a model, its serialised bytes, or the path of its file
OnnxSource: TypeAlias = "ModelProto | bytes | str | Path"

__all__ = ["Block", "Graph", "GraphBuilder", "Node"]


@dataclass(frozen=True)
class Block:
    """The part of a network that a node belongs to.

    Attributes
    ----------
    name
        Place in the network, such as ``stage2/1``.
    label
        What it is, such as ``mbconv(k=5,e=6,s=2,o=40)``. With the input shapes it determines the
        block's kernels: blocks of equal `Graph.signature` are interchangeable.
    decision
        Index of the decision that chose it; None for the fixed parts.
    """

    name: str
    label: str
    decision: int | None = None


@dataclass(frozen=True)
class Node:
    """A kernel in its place: a unique name, the names of its input tensors, its block."""

    name: str
    kernel: Kernel
    inputs: tuple[str, ...]
    block: Block


class Graph:
    """An immutable directed acyclic graph of kernels; tensors are named after the nodes that compute them.

    Parameters
    ----------
    nodes
        In an order in which they can run.
    inputs
        Input names to shapes, batch 1.
    outputs
        Names of the tensors that the graph returns.
    label
        What the whole graph is; set for single blocks and kernels.

    Raises
    ------
    ModelError
        If a node reads a tensor that nothing before it computes, or shapes do not fit.
    """

    def __init__(
        self, nodes: Sequence[Node], inputs: Mapping[str, Shape], outputs: Sequence[str], label: str = ""
    ) -> None:
        self.nodes = tuple(nodes)
        self.inputs = dict(inputs)
        self.outputs = tuple(outputs)
        self.label = label
        shapes: dict[str, Shape] = dict(inputs)
        for node in self.nodes:
            if node.name in shapes:
                raise ModelError(f"two tensors are called {node.name!r}")
            try:
                shapes[node.name] = node.kernel.output_shape(*(shapes[name] for name in node.inputs))
            except KeyError as error:
                raise ModelError(f"{node.name} reads {error.args[0]!r}, which nothing before it computes") from None
        for name in self.outputs:
            if name not in shapes:
                raise ModelError(f"the output {name!r} is not computed")
        self.shapes = shapes

    def __repr__(self) -> str:
        return f"Graph({self.label or 'network'}: {len(self.nodes)} kernels, {self.macs / 1e6:.4g} M MACs)"

    def input_shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of the tensors that `node` reads."""
        return tuple(self.shapes[name] for name in node.inputs)

    # ------------------------------------------------------------------ counts

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products for one sample."""
        return sum(node.kernel.macs(*self.input_shapes(node)) for node in self.nodes)

    @cached_property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(node.kernel.params(*self.input_shapes(node)) for node in self.nodes)

    @cached_property
    def size(self) -> int:
        """Bytes of the weights in the deployed fp32 file, BatchNorm folded."""
        return 4 * sum(node.kernel.deployed_params(*self.input_shapes(node)) for node in self.nodes)

    @cached_property
    def bytes(self) -> int:
        """Bytes moved by one fp32 inference: every kernel reads its inputs and weights and writes its output once."""
        return sum(node.kernel.bytes(*self.input_shapes(node)) for node in self.nodes)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: multiply-accumulates per byte moved."""
        return self.macs / self.bytes if self.bytes else 0.0

    @cached_property
    def peak_memory(self) -> int:
        """Peak bytes of live fp32 activations, running the nodes in order; no kernel works in place."""
        last = {name: len(self.nodes) for name in self.outputs}
        for index in range(len(self.nodes) - 1, -1, -1):
            for name in self.nodes[index].inputs:
                last.setdefault(name, index)
        live = {name: 4 * math.prod(shape) for name, shape in self.inputs.items()}
        peak = sum(live.values())
        for index, node in enumerate(self.nodes):
            live[node.name] = 4 * math.prod(self.shapes[node.name])
            peak = max(peak, sum(live.values()))
            live = {name: held for name, held in live.items() if last.get(name, -1) > index}
        return peak

    # ------------------------------------------------------------------ parts

    @property
    def block(self) -> Block:
        """The block of a graph that is a single block."""
        return self.nodes[0].block

    @property
    def signature(self) -> str:
        """Key of a block or kernel in latency tables: what it is, on which shapes, in which type."""
        shapes = "+".join("x".join(map(str, shape)) for shape in self.inputs.values())
        return f"{self.label or 'network'}@{shapes}:float32"

    @cached_property
    def blocks(self) -> tuple[Graph, ...]:
        """One graph per block, in order of first appearance."""
        members: dict[Block, list[Node]] = {}
        for node in self.nodes:
            members.setdefault(node.block, []).append(node)
        return tuple(self._part(nodes, block.label) for block, nodes in members.items())

    @cached_property
    def kernels(self) -> tuple[Graph, ...]:
        """One graph per node."""
        return tuple(self._part([node], node.kernel.label) for node in self.nodes)

    def _part(self, nodes: list[Node], label: str) -> Graph:
        inside = {node.name for node in nodes}
        reads = dict.fromkeys(name for node in nodes for name in node.inputs if name not in inside)
        outside = {name for node in self.nodes if node.name not in inside for name in node.inputs}
        outside.update(self.outputs)
        outputs = [node.name for node in nodes if node.name in outside]
        return Graph(nodes, {name: self.shapes[name] for name in reads}, outputs, label)

    def pruned(self) -> Graph:
        """The same graph without the kernels that no output depends on."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
                kept.append(node)
        return Graph(kept[::-1], self.inputs, self.outputs, self.label)

    # ------------------------------------------------------------------ torch and ONNX

    def to_module(self) -> GraphModule:
        """A freshly initialised torch module; its parameters are named ``<node>.<parameter>``."""
        from hwnas.spaces.module import GraphModule

        return GraphModule(self)

    def to_onnx(
        self,
        weights: Mapping[str, Any] | None = None,
        *,
        name: str = "hwnas",
        metadata: dict[str, str] | None = None,
        batch: int | str = 1,
    ) -> ModelProto:
        """Write the deployable model: fp32, BatchNorm folded, opset 17.

        Parameters
        ----------
        weights
            A state dict of `to_module` (arrays or tensors). Without it, seeded random weights stand
            in, which is what latency measurements use.
        name
            Name of the ONNX graph.
        metadata
            Texts for the model's ``metadata_props``; a block or kernel also carries its signature.
        batch
            Batch size, or a name for a dynamic batch axis.

        Raises
        ------
        ModelError
            If a weight is missing or has the wrong shape.
        """
        from hwnas.spaces.onnx_writer import OnnxWriter

        writer = OnnxWriter()
        names = dict(zip(self.inputs, _port_names("input", len(self.inputs)), strict=True))
        shapes = dict(zip(names.values(), self.inputs.values(), strict=True))
        for node in self.nodes:
            given = list(self.input_shapes(node))
            arrays = self._weights(node, given, weights)
            names[node.name] = node.kernel.emit(writer, node.name, [names[i] for i in node.inputs], given, arrays)
        outputs = {}
        for key, port in zip(self.outputs, _port_names("output", len(self.outputs)), strict=True):
            writer.rename_output(names[key], port)
            outputs[port] = self.shapes[key]
        notes = dict(metadata or {})
        if self.label:
            notes.setdefault("hwnas.signature", self.signature)
        return writer.model(shapes, outputs, name=name, metadata=notes, batch=batch)

    def _weights(self, node: Node, shapes: list[Shape], weights: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        wanted = node.kernel.weight_shapes(*shapes)
        if weights is None:
            return _random_weights(wanted, crc32(node.name.encode()))
        arrays = {}
        for name, shape in wanted.items():
            key = f"{node.name}.{name}"
            if key not in weights:
                raise ModelError(f"the weights lack {key!r}; they belong to another architecture")
            value = weights[key]
            array = value.detach().float().cpu().numpy() if hasattr(value, "detach") else np.asarray(value, np.float32)
            if array.shape != tuple(shape):
                raise ModelError(f"the weight {key!r} has shape {array.shape}, not {tuple(shape)}")
            arrays[name] = array
        return arrays

    @classmethod
    def from_onnx(cls, model: OnnxSource) -> Graph:
        """Read any ONNX model into kernels, with the usual fusions; see `hwnas.spaces.onnx_reader`."""
        from hwnas.spaces.onnx_reader import read_onnx

        return read_onnx(model)


def _port_names(base: str, count: int) -> list[str]:
    return [base] if count == 1 else [f"{base}{index}" for index in range(count)]


def _random_weights(shapes: dict[str, Shape], seed: int) -> dict[str, np.ndarray]:
    """He-initialised weights and neutral statistics, so that activations keep their scale through deep networks."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            scale = np.float32(math.sqrt(2 / math.prod(shape[1:])))
            arrays[name] = rng.standard_normal(shape, dtype=np.float32) * scale
        else:
            neutral = name.endswith(("bn.weight", "running_var"))
            arrays[name] = np.full(shape, 1.0 if neutral else 0.0, dtype=np.float32)
    return arrays


class GraphBuilder:
    """Collects nodes while a space lowers an architecture.

    Examples
    --------
    >>> from hwnas.spaces.kernels import Conv
    >>> build = GraphBuilder((1, 3, 32, 32))
    >>> build.block("stem", "conv(k=3,s=1,o=16)")
    >>> x = build.add("stem/conv", Conv(o=16, act="relu"), "input")
    >>> build.graph(x).macs
    442368
    """

    def __init__(self, input_shape: Shape) -> None:
        self._inputs = {"input": input_shape}
        self._nodes: list[Node] = []
        self._block = Block("network", "network")
        self.shapes: dict[str, Shape] = dict(self._inputs)

    def block(self, name: str, label: str, decision: int | None = None) -> None:
        """Start a block: nodes added from now on belong to it."""
        self._block = Block(name, label, decision)

    def add(self, name: str, kernel: Kernel, *inputs: str) -> str:
        """Add a node and return the name of its output tensor."""
        self.shapes[name] = kernel.output_shape(*(self.shapes[tensor] for tensor in inputs))
        self._nodes.append(Node(name, kernel, inputs, self._block))
        return name

    def graph(self, *outputs: str) -> Graph:
        """The graph of everything added."""
        return Graph(self._nodes, self._inputs, outputs)
