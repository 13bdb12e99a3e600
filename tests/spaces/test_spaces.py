"""Random architectures of every space: counts, costs, torch against ONNX, supernet against stand-alone."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hwnas.spaces import ConfigError, ModelError, SearchSpace, get_space, list_spaces
from hwnas.spaces.supernet import Supernet
from tests.spaces.test_kernels import randomise

SMALL = {"resolution": 8, "channels": 1, "classes": 10, "width": 0.25, "depth": 0.5}
MIDDLE = {"resolution": 28, "channels": 1, "classes": 7, "width": 0.35}
spaces = [get_space(name, **SMALL) for name in list_spaces()]
middle = [get_space(name, **MIDDLE) for name in list_spaces()]
spaces.append(get_space("fbnetv2(kernels=5,acts=swish,expansions=1.5+2.25,widths=1,splits=0+1+3)", **SMALL))
both = pytest.mark.parametrize("space", [*spaces, *middle], ids=lambda space: space.spec)
each = pytest.mark.parametrize("space", spaces, ids=lambda space: space.spec)


def draw(space: SearchSpace, seed: int) -> tuple[int, ...]:
    return tuple(space.sample(1, np.random.default_rng(seed))[0].tolist())


@both
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_torch_onnx_and_counts_agree(space: SearchSpace, seed: int) -> None:
    graph = space.lower(draw(space, seed))
    torch.manual_seed(seed)
    module = randomise(graph.to_module())
    x = torch.randn(space.input_shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expected = module(x).numpy()
    assert expected.shape == (1, space.classes)
    assert counter.get_total_flops() == 2 * graph.macs
    assert sum(parameter.numel() for parameter in module.parameters()) == graph.params
    model = graph.to_onnx(module.state_dict())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"input": x.numpy()})
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@both
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_terms_add_up_to_the_graph(space: SearchSpace, seed: int) -> None:
    architecture = draw(space, seed)
    graph = space.lower(architecture)
    row = np.array([architecture])
    catalog = {block.signature: index for index, block in enumerate(space.catalog)}
    seen = np.zeros(len(catalog), dtype=int)
    for block in graph.blocks:
        seen[catalog[block.signature]] += 1
    assert (space.counts(row)[0] == seen).all()
    for metric in ("macs", "params", "bytes", "size"):
        values = np.array([getattr(block, metric) for block in space.catalog])
        assert space.price(row, values)[0] == getattr(graph, metric)
    if space.is_chain:
        assert graph.peak_memory == max(block.peak_memory for block in graph.blocks)


@each
def test_equal_signatures_mean_equal_blocks(space: SearchSpace) -> None:
    seen: dict[str, list[str]] = {}
    for seed in range(12):
        for block in space.lower(draw(space, seed)).blocks:
            kernels = [kernel.signature for kernel in block.kernels]
            assert seen.setdefault(block.signature, kernels) == kernels


@each
def test_supernet_paths_equal_stand_alone_networks(space: SearchSpace) -> None:
    supernet = randomise(Supernet(space))
    x = torch.randn(2, *space.input_shape[1:])
    for seed in range(6):
        architecture = draw(space, seed)
        module = space.lower(architecture).to_module().eval()
        module.load_state_dict(supernet.weights_of(architecture))
        with torch.no_grad():
            assert torch.equal(supernet(x, architecture), module(x))
        assert len(supernet.active_modules(architecture)) == len(module.graph.nodes)


def test_an_elastic_supernet_is_as_large_as_its_largest_network() -> None:
    space = get_space("fbnetv2", **SMALL)
    supernet = Supernet(space)
    largest = tuple((space.radices - 1).tolist())
    assert sum(p.numel() for p in supernet.parameters()) == space.lower(largest).params
    separate = sum(block.params for block in space.catalog)
    assert separate > 10 * space.lower(largest).params
    x = torch.randn(4, *space.input_shape[1:])
    smallest = tuple(np.zeros_like(space.radices).tolist())
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    supernet(x, smallest).sum().backward()
    for name, parameter in supernet.named_parameters():
        if parameter.grad is None:
            continue
        used = supernet.weights_of(smallest)[name.removeprefix("nodes.")].shape
        outside = parameter.grad.clone()
        window = [
            slice((whole - size) // 2 if axis >= 2 else 0, ((whole - size) // 2 if axis >= 2 else 0) + size)
            for axis, (whole, size) in enumerate(zip(parameter.shape, used, strict=True))
        ]
        outside[tuple(window)] = 0
        assert not outside.any(), name  # what the path does not use is not moved
    after = supernet.state_dict()
    moved = [key for key, value in before.items() if key.endswith("running_mean") and (after[key] != value).any()]
    assert moved  # statistics are written through to the shared ones


@each
def test_operators_on_architectures(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    left, right = draw(space, 1), draw(space, 2)
    child = space.crossover(left, right, rng)
    assert all(c in pair for c, pair in zip(child, zip(left, right, strict=True), strict=True))
    assert space.validate(space.mutate(left, rng, 0.5)) != left
    assert space.mutate(left, rng, 0.0) == left
    encoded = space.encode(np.array([left, right]))
    assert encoded.shape == (2, space.radices.sum())
    assert (encoded.sum(axis=1) == len(left)).all()
    assert list(space.describe(left)) == [decision.name for decision in space.decisions]
    again = get_space(space.spec)
    assert again.spec == space.spec
    assert again.size == space.size


def test_sizes_are_those_of_the_papers() -> None:
    assert get_space("mobilenet").size == 6**6 * 7**15
    assert get_space("shufflenet").size == 4**20
    assert get_space("nasbench201").size == 15_625
    assert len(list(get_space("nasbench201").enumerate())) == 15_625


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [("mobilenet", 224, 7), ("mobilenet", 28, 7), ("mobilenet", 8, 4), ("shufflenet", 32, 4), ("nasbench201", 8, 4)],
)
def test_small_inputs_keep_a_feature_map(name: str, size: int, last: int) -> None:
    space = get_space(name, resolution=size)
    graph = space.lower([0] * len(space.decisions) if name != "nasbench201" else [3] * 6)
    before_pool = next(node for node in graph.nodes if node.kernel.op == "globalpool")
    assert graph.shapes[before_pool.inputs[0]][2:] == (last, last)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mobilnet", "did you mean 'mobilenet'"),
        ("mobilenet(widht=1)", "no parameter 'widht'"),
        ("mobilenet(width=wide)", "width=wide"),
        ("mobilenet(width=-1)", "width between"),
        ("mobilenet(resolution=1)", "resolution between"),
        ("mobilenet(resolution)", "parameter=value"),
        ("mobilenet(resolution=8", "cannot read the space"),
        ("nasbench201(resolution=30)", "multiple of 4"),
    ],
)
def test_bad_spaces_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        get_space(spec)


def test_bad_architectures_are_refused() -> None:
    space = get_space("nasbench201")
    for bad, message in [([0] * 5, "6 decisions"), ([9] * 6, "choices 0 to 4"), (["x"] * 6, "list of integers")]:
        with pytest.raises(ModelError, match=message):
            space.lower(bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="too many to list"):
        get_space("mobilenet").all()


def test_choices_of_fbnetv2() -> None:
    space = get_space("fbnetv2(kernels=3,acts=relu,splits=1)", resolution=32)
    assert space.decisions[0].choices == ("3",)
    assert {decision.choices for decision in space.decisions[4::5]} == {("1",)}
    for text, words in (
        ("kernels=4", "odd numbers"),
        ("kernels=5+3", "rise"),
        ("expansions=", "numbers above 0"),
        ("expansions=nan", "numbers above 0"),
        ("acts=relu+relu", "each once"),
        ("acts=step", "hswish"),
        ("splits=1+1", "rise"),
        ("widths=0", "numbers above 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            get_space(f"fbnetv2({text})")
