"""Hostile files: valid ones that are spoiled in many ways, and what reads them.

A `Target` makes valid files, spoils them, and reads the result. An input is named by a number: the same number always
gives the same bytes. The tests read a few hundred of each, `benchmarks/hostile_files.py` 10,000.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TARGETS", "Target", "nested"]

Rng = np.random.Generator
Spoil = Callable[[bytes, Rng, list[bytes]], bytes]

NUMBERS = [0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
#: what stands in the place of a word of a text
WORDS = [
    "", "0", "-1", "-0", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "nan", "inf", "9" * 30, "9" * 5000, "0x10",
    "1_0", "true", "null", "None", "[]", "{}", "[[]]", '""', '"', "'", "\\", "\x00", "\ufeff", "é", "\ud7ff", "\u202e",
    "../../etc/passwd", "/etc/passwd", "C:\\con", "~", "*", "yes", "measured", "%s%n", "{0}", "1979-05-27T07:32:00Z",
    "1979-99-99", "inf,inf", ",,,,", "\r", "\n", "\t", "a" * 70_000,
]  # fmt: skip
#: what stands in the place of a value of JSON
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, 5e-324, math.nan, math.inf,
    -math.inf, "", "x", "nan", "\x00", "../../x", "/etc/passwd", "a" * 10_000, [], {}, [[]], [None], [0] * 1000,
    [1e308] * 3, {"a": {}}, {"": 0}, [math.nan], [[1, 2], [3]],
]  # fmt: skip


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """Brackets within brackets."""
    return opening * depth + closing * depth


# ---------------------------------------------------------------------- spoiling bytes


def _place(data: bytes, rng: Rng) -> int:
    # half of the blows hit the first kilobyte, where headers are
    return int(rng.integers(max(1, min(len(data), 1024) if rng.random() < 0.5 else len(data))))


def _flip(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        changed[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _number(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    at, width = _place(data, rng), int(rng.choice([1, 2, 4, 8]))
    value = NUMBERS[int(rng.integers(len(NUMBERS)))] % 256**width
    return data[:at] + value.to_bytes(width, "big" if rng.random() < 0.5 else "little") + data[at + width :]


def _varint(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    at, longer = _place(data, rng), int(rng.integers(1, 10))
    return data[:at] + b"\xff" * longer + b"\x7f" + data[at + int(rng.integers(3)) :]


def _cut(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    return data[: _place(data, rng)]


def _delete(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    at, size, times = _place(data, rng), int(rng.integers(1, 200)), int(rng.choice([1, 2, 50]))
    return data[:at] + data[at : at + size] * times + data[at:]


def _insert(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def _splice(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    other = others[int(rng.integers(len(others)))]
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _noise(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    return data[: int(rng.integers(0, 16))] + rng.bytes(int(rng.integers(0, 400)))


BYTES: list[Spoil] = [_flip, _flip, _number, _number, _varint, _cut, _delete, _repeat, _insert, _splice, _noise]


# ---------------------------------------------------------------------- spoiling texts


def _word(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    """Another word in the place of one."""
    import re

    text = data.decode("utf-8", "replace")
    words = [match.span() for match in re.finditer(r"[\w.+-]+|\"[^\"]*\"|[^\w\s]", text[:20_000])]
    for _ in range(int(rng.integers(1, 4))):
        if words:
            start, end = words[int(rng.integers(len(words)))]
            return (text[:start] + WORDS[int(rng.integers(len(WORDS)))] + text[end:]).encode("utf-8", "replace")
    return data


def _lines(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    order = rng.permutation(len(lines))[: int(rng.integers(len(lines) + 1))]
    return b"".join(lines[index] for index in order) * int(rng.choice([1, 1, 3]))


def _deep(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    depth = int(rng.choice([50, 500, 5_000, 200_000]))
    kind = [("[", "]"), ('{"a":', "}"), ("a=[", "]"), ("[", ""), ("(", ")")][int(rng.integers(5))]
    at = _place(data, rng)
    inner = nested(depth, *kind).encode()
    return inner if rng.random() < 0.3 else data[:at] + inner + data[at:]


TEXTS: list[Spoil] = [_word, _word, _word, _word, _lines, _deep]


def _json(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    """Another value in the place of one, or one less or more."""
    lines = data.decode().splitlines()
    many = len(lines) > 1 and lines[0].startswith("{") and lines[0].endswith("}")
    at = int(rng.integers(len(lines))) if many else 0
    content = json.loads(lines[at] if many else data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 5]))):
        place: Any = content
        for _ in range(int(rng.integers(0, 6))):
            inner = [value for value in _values(place) if isinstance(value, dict | list) and value]
            if not inner:
                break
            place = inner[int(rng.integers(len(inner)))]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(rng.integers(len(keys)))] if keys else "x"
        kind = rng.random()
        if kind < 0.15 and keys:
            del place[key]
            if not place:
                break
        elif kind < 0.25 and isinstance(place, list):
            place += place * int(rng.choice([1, 3]))
        elif keys:
            value = VALUES[int(rng.integers(len(VALUES)))]
            place[key] = value if rng.random() < 0.8 else [place[key]]
    text = json.dumps(content)
    if many:
        lines[at] = text
        return ("\n".join(lines) + "\n").encode()
    return text.encode()


def _values(place: Any) -> list[Any]:
    return list(place.values()) if isinstance(place, dict) else list(place)


# ---------------------------------------------------------------------- spoiling ONNX


def _onnx(data: bytes, rng: Rng, _: list[bytes]) -> bytes:
    """Another structure: cycles, sizes, names, types, data elsewhere."""
    import onnx

    model = onnx.load_model_from_string(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        ONNX_BLOWS[int(rng.integers(len(ONNX_BLOWS)))](model, rng)
    return bytes(model.SerializeToString())


def _pick(items: Any, rng: Rng) -> Any:
    return items[int(rng.integers(len(items)))] if len(items) else None


SIZES = [0, -1, 1, 3, 4096, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1]
TYPES = ["Conv", "Reshape", "Expand", "Tile", "Range", "ConstantOfShape", "Gather", "Slice", "Pad", "Concat", "MatMul",
         "Gemm", "Resize", "Split", "Loop", "If", "Scan", "Cast", "Shape", "Identity", "Constant", "Pow", "Add", "Mul",
         "QuantizeLinear", "DequantizeLinear", "QLinearConv", "NonZero", "EyeLike", "OneHot", "Unsqueeze", "Squeeze",
         "Transpose", "Einsum", "LSTM", "Softmax", "ReduceMean", "GlobalAveragePool", "MaxPool", "BatchNormalization",
         "ConvTranspose", "Clip", "Where", "Optional", "SequenceEmpty", "StringNormalizer", "", "Nonsense"]  # fmt: skip


def _sizes(model: Any, rng: Rng) -> None:
    value = _pick([*model.graph.input, *model.graph.output], rng)
    dim = value and _pick(value.type.tensor_type.shape.dim, rng)
    if dim:
        dim.dim_value = SIZES[int(rng.integers(len(SIZES)))]


def _tensor_sizes(model: Any, rng: Rng) -> None:
    if (tensor := _pick(model.graph.initializer, rng)) is not None and len(tensor.dims):
        tensor.dims[int(rng.integers(len(tensor.dims)))] = SIZES[int(rng.integers(len(SIZES)))]


def _tensor_axes(model: Any, rng: Rng) -> None:
    if (tensor := _pick(model.graph.initializer, rng)) is not None:
        tensor.dims.extend([SIZES[int(rng.integers(len(SIZES)))]] * int(rng.choice([1, 3, 70])))


def _tensor_type(model: Any, rng: Rng) -> None:
    if (tensor := _pick(model.graph.initializer, rng)) is not None:
        tensor.data_type = int(rng.choice([0, 1, 2, 3, 7, 8, 9, 10, 11, 14, 16, 17, 21, 22, 23, 99]))


def _tensor_content(model: Any, rng: Rng) -> None:
    if (tensor := _pick(model.graph.initializer, rng)) is not None:
        kind = rng.integers(3)
        if kind == 0:
            tensor.raw_data = rng.bytes(int(rng.integers(0, 64)))
        elif kind == 1:
            tensor.ClearField("raw_data")
            tensor.int64_data.extend([SIZES[int(rng.integers(len(SIZES)))]] * int(rng.integers(1, 9)))
        else:
            tensor.ClearField("raw_data")
            tensor.data_location = 1
            names = ["../../../etc/passwd", "/etc/passwd", "/dev/zero", "weights.bin", "", "."]
            entries = {"location": str(rng.choice(names)), "offset": "-1", "length": str(SIZES[int(rng.integers(12))])}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)


def _cycle(model: Any, rng: Rng) -> None:
    node, other = _pick(model.graph.node, rng), _pick(model.graph.node, rng)
    if node and len(node.input) and len(other.output):
        node.input[int(rng.integers(len(node.input)))] = other.output[0]


def _same_name(model: Any, rng: Rng) -> None:
    node, other = _pick(model.graph.node, rng), _pick(model.graph.node, rng)
    if node and len(node.output) and len(other.output):
        node.output[0] = other.output[0] if rng.random() < 0.7 else ""
        node.name = other.name


def _type(model: Any, rng: Rng) -> None:
    if node := _pick(model.graph.node, rng):
        node.op_type = TYPES[int(rng.integers(len(TYPES)))]
        if rng.random() < 0.1:
            node.domain = str(rng.choice(["ai.onnx.ml", "com.microsoft", "x"]))


def _attribute(model: Any, rng: Rng) -> None:
    import onnx

    if not (node := _pick(model.graph.node, rng)):
        return
    names = [a.name for a in node.attribute] or ["axis"]
    name = str(
        rng.choice([*names, "axis", "axes", "to", "group", "perm", "value", "kernel_shape", "equation", "start"])
    )
    values: list[Any] = [-1, 0, 2**40, -(2**63), 1.5, math.nan, "x", b"\xff\xfe", [0], [-1, 2**40], [2**62] * 4, [1.0],
                         [0] * 5000, ["a"]]  # fmt: skip
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(onnx.helper.make_attribute(name, values[int(rng.integers(len(values)))]))


def _inputs(model: Any, rng: Rng) -> None:
    if node := _pick(model.graph.node, rng):
        kind = rng.integers(4)
        if kind == 0:
            del node.input[:]
        elif kind == 1:
            node.input.extend([str(rng.choice(["", "nowhere", "input"]))] * int(rng.choice([1, 100])))
        elif kind == 2:
            del node.output[:]
        else:
            node.output.extend(["extra", ""])


def _lists(model: Any, rng: Rng) -> None:
    items = _pick([model.graph.node, model.graph.initializer, model.graph.input, model.graph.output], rng)
    if len(items):
        if rng.random() < 0.5:
            del items[int(rng.integers(len(items)))]
        else:
            items.append(items[int(rng.integers(len(items)))])


def _versions(model: Any, rng: Rng) -> None:
    kind = rng.integers(4)
    if kind == 0 and len(model.opset_import):
        model.opset_import[0].version = int(rng.choice([-1, 0, 1, 5, 7, 999, 2**40]))
    elif kind == 1:
        model.ir_version = int(rng.choice([-1, 0, 3, 99, 2**40]))
    elif kind == 2:
        model.opset_import.add(domain=str(rng.choice(["", "x", "ai.onnx.ml"])), version=2)
    else:
        model.metadata_props.add(key="hwnas.space", value=nested(1000))


def _subgraphs(model: Any, rng: Rng) -> None:
    import onnx

    # protobuf itself refuses messages that are nested more than 100 deep, and a level is three of them
    depth, graph = int(rng.choice([1, 5, 20, 30])), onnx.GraphProto(name="inner")
    for _ in range(depth):
        node = onnx.helper.make_node("If", ["input"], ["y"], then_branch=graph, else_branch=onnx.GraphProto(name="e"))
        graph = onnx.GraphProto(name="g")
        graph.node.append(node)
    model.graph.node.insert(0, graph.node[0])


def _growing(model: Any, rng: Rng) -> None:
    """A constant that the reader could compute, and that would be huge."""
    import onnx

    size, kind = SIZES[int(rng.integers(len(SIZES)))], rng.integers(4)
    shape = onnx.numpy_helper.from_array(np.array([size, int(rng.choice([1, 4096]))], np.int64), "bomb/shape")
    one = onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "bomb/one")
    numbers = [onnx.numpy_helper.from_array(np.array(v, np.int64), f"bomb/{i}") for i, v in enumerate((0, size, 1))]
    model.graph.initializer.extend([shape, one, *numbers])
    make = onnx.helper.make_node
    nodes = [
        make("ConstantOfShape", ["bomb/shape"], ["bomb"]),
        make("Expand", ["bomb/one", "bomb/shape"], ["bomb"]),
        make("Range", ["bomb/0", "bomb/1", "bomb/2"], ["bomb"]),
        make("Tile", ["bomb/one", "bomb/shape"], ["bomb"]),
    ]
    model.graph.node.insert(0, nodes[int(kind)])


def _doubling(model: Any, rng: Rng) -> None:
    """Constants that each double the one before."""
    import onnx

    name = "double/0"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000, np.float32), name))
    nodes = []
    for step in range(int(rng.choice([3, 30, 200]))):
        nodes.append(onnx.helper.make_node("Concat", [name, name], [f"double/{step + 1}"], axis=0))
        name = f"double/{step + 1}"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


ONNX_BLOWS: list[Callable[[Any, Rng], None]] = [
    _sizes, _tensor_sizes, _tensor_axes, _tensor_type, _tensor_content, _cycle, _same_name, _type, _type, _attribute,
    _attribute, _inputs, _lists, _versions, _subgraphs, _growing, _doubling,
]  # fmt: skip


# ---------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes
    ----------
    name
        What is read.
    seeds
        Makes valid files in an empty folder; each is a name and bytes.
    read
        Reads the folder after one of the files was replaced; it may raise a `HwnasError`.
    spoils
        How bytes are spoiled; one of them is drawn.
    """

    name: str
    seeds: Callable[[Path], dict[str, bytes]]
    read: Callable[[Path, str], None]
    spoils: list[Spoil]

    def cases(self, seeds: dict[str, bytes], numbers: range) -> Iterator[tuple[int, str, bytes]]:
        """Number, file name and spoiled bytes of inputs."""
        names, others = sorted(seeds), [seeds[name] for name in sorted(seeds)]
        for number in numbers:
            rng = np.random.default_rng([2026, sum(self.name.encode()), number])
            name = names[int(rng.integers(len(names)))]
            data = seeds[name]
            for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
                spoil = self.spoils[int(rng.integers(len(self.spoils)))]
                try:
                    data = spoil(data, rng, others)
                except Exception:  # what is spoiled already cannot be spoiled by structure
                    data = _flip(data, rng, others)
            yield number, name, data


def _onnx_seeds(_: Path) -> dict[str, bytes]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hwnas.spaces.space import get_space

    found = {}
    for name in ("mobilenet(resolution=16,width=0.25,depth=0.25)", "shufflenet(resolution=32,width=0.25)"):
        space = get_space(name)
        architecture = tuple(space.sample(1, np.random.default_rng(0)).tolist()[0])
        found[f"{name.split('(')[0]}.onnx"] = bytes(space.lower(architecture).to_onnx().SerializeToString())
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3), dtype=np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "axes": np.array([2, 3], np.int64),
        "shape": np.array([1, -1], np.int64),
        "m": rng.standard_normal((8, 10), dtype=np.float32),
        "two": np.array([2], np.int64),
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        make("Clip", ["a", "low", "high"], ["b"]),
        make("Sigmoid", ["b"], ["c"]),
        make("Mul", ["b", "c"], ["d"]),
        make("Shape", ["d"], ["s"]),
        make("Gather", ["s", "two"], ["g"], axis=0),
        make("Concat", ["g", "g"], ["h"], axis=0),
        make("Pad", ["d", "pads"], ["e"]),
        make("ReduceMean", ["e", "axes"], ["f"], keepdims=0),
        make("Reshape", ["f", "shape"], ["i"]),
        make("MatMul", ["i", "m"], ["j"]),
        make("Softmax", ["j"], ["output"], axis=-1),
    ]
    weights["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    small = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(small)
    return {**found, "small.onnx": bytes(small.SerializeToString())}


def _read_onnx(folder: Path, name: str) -> None:
    from hwnas.spaces import Graph

    graph = Graph.from_onnx(folder / name)
    _ = graph.macs, graph.params, graph.bytes, graph.peak_memory, graph.signature, len(graph.kernels)


def _table_seeds(folder: Path) -> dict[str, bytes]:
    from hwnas.latency_tables import DeviceRecord, LatencyTable, NetworkRow, Row

    device = DeviceRecord("cpu-test", "a CPU", "cpu", "run", "1", "float32", 1, 1, "measured", {"cpu": "x"}, {"p": 1})
    table = LatencyTable.create(folder, device)
    for index in range(4):
        times = (0.5 + index, 0.4 + index, 0.6 + index, 3, index % 2 == 0, "measured", "2026-11-24T10:00:00+00:00")
        table.add(Row(f"conv(k=3,s={index})@1x3x8x8:float32", "isolated", *times), [0.5, 0.6])
        table.add_network(NetworkRow("mobilenet(resolution=8)", (index, 1, 2), *times), [1.0])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _read_table(folder: Path, _: str) -> None:
    from hwnas.latency_tables import LatencyTable

    table = LatencyTable.load(folder)
    table.vector(["conv(k=3,s=0)@1x3x8x8:float32"])
    _ = table.device.is_this_machine(), table.device.differences(table.device), table.device.to_json()
    for _ in table.records():
        pass


def _run_seeds(folder: Path) -> dict[str, bytes]:
    from hwnas.evaluators import Evaluation
    from hwnas.run import Run

    settings = {"space": "mobilenet", "data": "digits", "constraints": ["params <= 1M"], "seed": 1, "epochs": 2}
    with Run.create(folder, {**settings, "lr": 0.1, "distill": False}) as run:
        for index in range(3):
            run.add_trial(Evaluation((index, 1, 2), 0.5 + index / 10, {"params": 1e4}, {"stage": 0}))
            cost = {"bound": 5.0, "predicted": 1.0, "interval": [0.9, 1.1], "checked": 1.0, "method": "measured"}
            run.add_finalist(
                {"architecture": [index], "score": 0.5, "accuracy": 0.6, "fits": True, "costs": {"p": cost}}
            )
        run.save_state({"told": 3, "strategy": {"rng": {"a": [1, 2]}}})
        run.save_best({"architecture": [0, 1, 2], "space": "mobilenet", "accuracy": 0.9, "costs": {}})
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def _read_run(folder: Path, name: str) -> None:
    from hwnas.plan import SearchSettings
    from hwnas.run import Run

    run = Run.open(folder, write=False)
    if name == "run.toml":
        SearchSettings.from_run(run.settings)
    _ = run.trials(), run.finalists(), run.best, run.state


def _checkpoint_seeds(folder: Path) -> dict[str, bytes]:
    import torch

    from hwnas.training.checkpoint import save_checkpoint

    tensors = {
        "model.w": torch.ones(4, 3),
        "best.w": torch.zeros(4, 3),
        "n": torch.tensor(3),
        "h": torch.ones(2).half(),
    }
    file = save_checkpoint(folder / "a.safetensors", tensors, {"epoch": 3, "history": [{"loss": 1.0}]})
    return {"a.safetensors": file.read_bytes()}


def _read_checkpoint(folder: Path, name: str) -> None:
    from hwnas.training.checkpoint import load_checkpoint, load_meta, load_weights

    load_meta(folder / name)
    tensors, meta = load_checkpoint(folder / name)
    assert isinstance(meta, dict)
    for tensor in tensors.values():
        tensor.sum()
    load_weights(folder / name)


def _predictor_seeds(folder: Path) -> dict[str, bytes]:
    from hwnas.kernel_predictor import KernelPredictor
    from hwnas.latency_predictor import LatencyPredictor

    rng = np.random.default_rng(0)
    features = {"size": rng.random((12, 3)), "depth": rng.random((12, 2))}
    LatencyPredictor.fit(features, 1 + rng.random(12)).save(folder / "latency.json")
    KernelPredictor.fit(_divided(), calibrate=False).save(folder / "kernels.json", device="x")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _divided() -> list[Any]:
    from hwnas.profilers.division import DividedNetwork
    from hwnas.spaces.placement import place_kernels
    from hwnas.spaces.space import get_space

    space, found = get_space("mobilenet(resolution=8,width=0.25,depth=0.25)"), []
    for architecture in space.sample(3, np.random.default_rng(0)).tolist():
        placement = place_kernels(space.lower(tuple(architecture)))
        ms = tuple(0.001 * (index + 1) for index in range(len(placement.kernels)))
        found.append(DividedNetwork(str(architecture), placement, ms, True))
    return found


def _read_predictor(folder: Path, name: str) -> None:
    from hwnas.kernel_predictor import KernelPredictor
    from hwnas.latency_predictor import LatencyPredictor

    if name == "latency.json":
        rng = np.random.default_rng(0)
        LatencyPredictor.load(folder / name).predict({"size": rng.random((2, 3)), "depth": rng.random((2, 2))})
        return
    predictor, _ = KernelPredictor.load(folder / name)
    network = _divided()[0].placement
    assert predictor.latency(network) >= 0


def _idx_seeds(_: Path) -> dict[str, bytes]:
    images = b"\x00\x00\x08\x03" + np.array([5, 28, 28], ">u4").tobytes() + bytes(range(256)) * 15 + bytes(80)
    labels = b"\x00\x00\x08\x01" + np.array([5], ">u4").tobytes() + bytes(5)
    bomb = b"\x00\x00\x08\x03" + np.array([1_000_000, 28, 28], ">u4").tobytes() + bytes(30_000_000)
    record = bytes([3]) + bytes(3072)
    return {
        "images": images,
        "labels": labels,
        "images.gz": gzip.compress(images, mtime=0),
        "labels.gz": gzip.compress(labels, mtime=0),
        "bomb.gz": gzip.compress(bomb, mtime=0),
        "batch.bin": record * 2,
    }


def _read_idx(folder: Path, name: str) -> None:
    from hwnas.data.cifar10 import read_batch
    from hwnas.data.fashion_mnist import read_idx

    if name == "batch.bin":
        read_batch(folder / name)
    else:
        read_idx(folder / name, axes=1 if name.startswith("labels") else 3)


def _image_seeds(_: Path) -> dict[str, bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    found = {}
    for suffix, kind in (("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP"), ("ppm", "PPM"), ("webp", "WEBP")):
        for mode in ("RGB", "L"):
            stream = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(stream, kind)
            found[f"{mode}.{suffix}"] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(pixels).quantize(16).save(stream, "PNG", transparency=0)
    found["P.png"] = stream.getvalue()
    stream = io.BytesIO()
    Image.new("1", (8000, 7900)).save(stream, "PNG")  # 63 million pixels in a few kilobytes
    found["large.png"] = stream.getvalue()
    return found


def _read_image(folder: Path, name: str) -> None:
    from hwnas.data.image_folder import Decoder

    assert Decoder(32)(str(folder / name)).shape == (3, 32, 32)
    Decoder(16, 1)(str(folder / name), np.random.default_rng(0))


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", _onnx_seeds, _read_onnx, [*BYTES, *[_onnx] * 14]),
        Target("table", _table_seeds, _read_table, [*BYTES, *TEXTS, *TEXTS, *[_json] * 6]),
        Target("run", _run_seeds, _read_run, [*BYTES, *TEXTS, *TEXTS, *[_json] * 10]),
        Target("checkpoint", _checkpoint_seeds, _read_checkpoint, [*BYTES, *TEXTS]),
        Target("predictor", _predictor_seeds, _read_predictor, [*BYTES, *TEXTS, *[_json] * 20]),
        Target("idx", _idx_seeds, _read_idx, BYTES),
        Target("image", _image_seeds, _read_image, BYTES),
    )
}
