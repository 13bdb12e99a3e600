"""What a whole network costs on an NPU, layer by layer, by Intel's cost networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.profilers.vpunn.lowering import DpuStep, Lowering, MoveStep, ShaveStep
from hwnas.profilers.vpunn.tiling import LayerCosts
from hwnas.spaces.graph import Graph

__all__ = ["LayerCost", "NetworkCost", "network_cost"]

#: inputs and outputs of a file are float32
_IO_BYTES = 4


@dataclass(frozen=True)
class LayerCost:
    """What one kernel of a network costs.

    Attributes
    ----------
    name
        Of its node.
    kind
        What it is: ``conv``, ``dwconv``, ``pool``, ...
    unit
        Where most of its time goes: ``dpu``, ``shave``, ``dma`` (moves within the tiles), or ``none``.
    cycles
        Cycles that it keeps the NPU busy, of the tensor units' clock; transfers from memory apart.
    us
        The same in microseconds.
    parts_us
        Of these the microseconds of each unit: ``dpu``, ``shave`` and ``dma``.
    dma_us
        Microseconds of bringing its weights from memory, by one DMA engine.
    wait_us
        Microseconds that it waits for them, because the layer before is too short to hide them.
    known
        False if there is no rule for the kernel, so that its cost is a bound from its size.
    """

    name: str
    kind: str
    unit: str
    cycles: float
    us: float
    parts_us: dict[str, float]
    dma_us: float
    wait_us: float
    known: bool = True


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs: its layers, and bringing its inputs in and its outputs back.

    Attributes
    ----------
    layers
        In the order of the graph.
    input_us, output_us
        Microseconds of the transfers of inputs and outputs from and to memory.
    modelled_share
        Share of the layers' busy time that comes from the cost network, not from fits or bounds.
    """

    layers: tuple[LayerCost, ...]
    input_us: float
    output_us: float
    modelled_share: float

    @property
    def total_us(self) -> float:
        """Microseconds of one inference."""
        return self.input_us + self.output_us + sum(layer.us + layer.wait_us for layer in self.layers)


def network_cost(graph: Graph, costs: LayerCosts, type_: str = "FLOAT16") -> NetworkCost:
    """Price a graph layer by layer.

    The layers run one after the other. While one runs, the weights of the next are brought by the DMA engines; where
    that takes longer, the next waits. Activations stay in the tiles' memory.

    Parameters
    ----------
    graph
        A network, block or kernel.
    costs
        The platform with its cost network.
    type_
        Of activations and weights: ``FLOAT16`` or ``UINT8``.

    Examples
    --------
    >>> from hwnas.profilers.vpunn import LayerCosts, get_platform, network_cost, read_network
    >>> costs = LayerCosts(read_network("vpu_4_0.vpunn"), get_platform("npu4000"))  # doctest: +SKIP
    >>> network_cost(graph, costs).total_us  # doctest: +SKIP
    """
    platform = costs.platform
    lowering = Lowering(platform, type_)
    steps = [lowering.lower(node.kernel, graph.input_shapes(node)) for node in graph.nodes]
    wanted = [step.layer for found in steps for step in found if isinstance(step, DpuStep)]
    cycles = dict(zip(wanted, costs.cycles(wanted), strict=True))
    layers: list[LayerCost] = []
    by_network = busy = before = 0.0
    for node, found in zip(graph.nodes, steps, strict=True):
        units = {"dpu": 0.0, "shave": 0.0, "dma": 0.0}
        weights = 0
        for step in found:
            if isinstance(step, DpuStep):
                units["dpu"] += step.times * cycles[step.layer] / platform.dpu_mhz
                weights += step.times * step.layer.weight_bytes
            elif isinstance(step, ShaveStep):
                units["shave"] += platform.shave_us(step.operator, step.elements)
            elif isinstance(step, MoveStep):
                units["dma"] += platform.cmx_us(step.size, step.piece)
        us, dma_us, known = sum(units.values()), platform.ddr_us(weights), lowering.knows(node.kernel)
        wait_us = max(0.0, dma_us / platform.dma_ports - before)
        unit = max(units, key=units.__getitem__) if us else "none"
        cycles_ = us * platform.dpu_mhz
        layers.append(LayerCost(node.name, node.kernel.op, unit, cycles_, us, units, dma_us, wait_us, known))
        by_network, busy = by_network + (units["dpu"] if known else 0.0), busy + us
        before = us if us else before  # what takes no time hides nothing, and stands in no one's way
    return NetworkCost(
        layers=tuple(layers),
        input_us=_transfer(list(graph.inputs.values()), costs),
        output_us=_transfer([graph.shapes[name] for name in graph.outputs], costs),
        modelled_share=by_network / busy if busy else 1.0,
    )


def _transfer(shapes: Sequence[tuple[int, ...]], costs: LayerCosts) -> float:
    return sum(costs.platform.ddr_us(_IO_BYTES * math.prod(shape)) for shape in shapes)
