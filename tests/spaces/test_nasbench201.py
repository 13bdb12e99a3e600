"""The published NAS-Bench-201 table: parameters and FLOPs of all architectures come out equal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from hwnas.spaces.nasbench201 import EDGES, OPERATORS, NASBench201
from tests.paths import shared_data

parquet = pytest.importorskip("pyarrow.parquet")


def published_table() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of the table by name, and the choices of its architectures, shape ``(15625, 6)``."""
    table = parquet.read_table(shared_data() / "nb201" / "accuracy.parquet")
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return columns, np.stack([values for name, values in columns.items() if name.startswith("op_")], axis=1)


def test_published_counts_of_all_architectures() -> None:
    table, choices = published_table()
    published = np.stack([(table[name] * 1e6).round() for name in ("params_M", "flops_M")], axis=1).astype(int)
    space = NASBench201()
    # with dead edges kept the counts are a sum over edges, so few networks give every architecture's
    base = np.array(space.published_counts((0,) * 6))
    per_edge = np.array(
        [
            [np.array(space.published_counts(tuple(op * (i == edge) for i in range(6)))) - base for op in range(5)]
            for edge in range(6)
        ]
    )
    counted = base + sum(per_edge[edge, choices[:, edge]] for edge in range(6))
    assert len(choices) == 15_625
    assert (counted == published).all()
    for index in np.random.default_rng(0).choice(len(choices), 200, replace=False):
        assert space.published_counts(tuple(choices[index].tolist())) == tuple(published[index])


def test_liveness_agrees_with_the_published_one() -> None:
    table, choices = published_table()
    space = NASBench201(resolution=8, classes=2, width=0.25, depth=0.2)
    for index in np.random.default_rng(1).choice(len(choices), 100, replace=False):
        graph = space.lower(choices[index])
        assert any(node.kernel.op == "zero" for node in graph.nodes) != bool(table["connected"][index])


def _cell_as_published(module: torch.nn.Module, name: str, x: torch.Tensor, architecture: list[int]) -> torch.Tensor:
    """A cell by its definition: every node is the sum of its edges, every convolution has a ReLU of its own."""
    nodes = [x]
    for target in (1, 2, 3):
        total = torch.zeros_like(x)
        for (source, end), choice in zip(EDGES, architecture, strict=True):
            operator = OPERATORS[choice]
            if end != target or operator == "none":
                continue
            value = nodes[source]
            if operator == "avg_pool_3x3":
                value = F.avg_pool2d(value, 3, 1, 1, count_include_pad=False)
            elif operator != "skip_connect":
                convolution = module._modules.get(f"{name}/edge{source}to{end}/{operator}/conv")
                if convolution is None:  # a dead edge
                    continue
                value = convolution(F.relu(value))
            total = total + value
        nodes.append(total)
    return nodes[3]


def test_cells_compute_what_the_paper_defines() -> None:
    space = NASBench201(resolution=8, classes=3, width=0.5, depth=0.4)
    rng = np.random.default_rng(2)
    for architecture in space.sample(60, rng).tolist():
        graph = space.lower(architecture)
        module = graph.to_module().eval()
        x = torch.randn(2, 3, 8, 8)
        y = module._modules["stem/conv"](x)
        for stage in range(3):
            if stage:
                name = f"reduce{stage}"
                a = module._modules[f"{name}/a/conv"](F.relu(y))
                b = module._modules[f"{name}/b/conv"](a)
                pooled = F.avg_pool2d(y, 2, 2) if f"{name}/shortcut/pool" in module._modules else y
                y = b + module._modules[f"{name}/shortcut/conv"](pooled)
            for cell in range(2):
                y = _cell_as_published(module, f"stage{stage}/{cell}", y, architecture)
        y = module._modules["head/bn"](y)
        expected = module._modules["head/classifier"](module._modules["head/pool"](y))
        assert torch.allclose(module(x), expected, atol=1e-5), architecture


def test_blocks_are_cut_where_onnxruntime_fuses(tmp_path: Path) -> None:
    space = NASBench201(depth=0.4)  # onnxruntime fuses sums where channels are multiples of 16
    for architecture in space.sample(12, np.random.default_rng(4)).tolist():
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        graph = space.lower(architecture)
        onnxruntime.InferenceSession(graph.to_onnx().SerializeToString(), options, ["CPUExecutionProvider"])
        runs = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
        blocks = [block for block in graph.blocks if block.block.name.startswith("stage")]
        labels = Counter(block.label for block in blocks)
        assert runs["Add"] == sum(count * (int(label[-2]) - 1) for label, count in labels.items() if "sum" in label)
        assert runs["AveragePool"] - 2 == labels["avg_pool_3x3"]
        # a stage's first ReLU may join the block before it; the residual blocks have one each that stands alone
        assert 0 <= labels["relu"] - (runs["Relu"] - 2) <= 3
