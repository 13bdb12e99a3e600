"""Reading schematics and replaying them, on programs written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.profilers import qnn_schematic
from hwnas.profilers.qnn_schedule import Rates, Schedule, schedule
from hwnas.profilers.qnn_schematic import Operator, Schematic, node_cycles, read_schematic, read_trace
from hwnas.spaces.errors import ModelError
from tests.profilers.schematics import entry, schematic

#: a convolution of layer 0x19: its weights come by DMA (0x1…), it runs on the matrix unit, a vector thread follows
LOAD, WEIGHTS, CONV, ADD, VIEW = (number << 32 | 0x19 for number in (0x4001, 0x4002, 0x4003, 0x4004, 0x4005))
CSV = (
    "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier,ONNX Source Ops\n"
    "0,FINALIZE,50056,US,BACKEND,ROOT,QNN (finalize) time,\n"
    "0,NODE,70,CYCLES,BACKEND,SUB-EVENT,Input OpId_2 (cycles),\n"
    "0,NODE,1800,CYCLES,BACKEND,SUB-EVENT,expand_token_1:OpId_25 (cycles),DequantizeLinear;expand_token_1\n"
    "0,NODE,1900,CYCLES,BACKEND,SUB-EVENT,expand_token_1:OpId_25 (cycles),DequantizeLinear;expand_token_1\n"
    "0,EXECUTE,73689,US,BACKEND,ROOT,QNN (execute) time,\n"
)


def program() -> str:
    graph = (
        entry(WEIGHTS, "q::ConvLayer_weights", "QUInt8", (3, 3, 20, 40))
        + entry(LOAD, "q::InputSlice", "QUInt8", (1, 10, 10, 20))
        + entry(VIEW, "q::View", "QUInt8", (1, 10, 10, 20), [LOAD])
        + entry(CONV, "q::ConvLayer", "QUInt8", (1, 10, 10, 40), [VIEW, WEIGHTS])
        + entry(ADD, "q::Add", "QUInt8", (1, 10, 10, 40), [CONV])
    )
    moved = {LOAD: (2000, 0, 0, 2000), CONV: (0, 0, 2000, 4000), ADD: (0, 0, 4000, 2000)}
    flags = {LOAD: "'is_dma',", CONV: "'uses_hmx',", ADD: "'uses_hvx','any_tcm',", WEIGHTS: "", VIEW: ""}
    return schematic(graph, moved, flags, [LOAD, WEIGHTS, VIEW, CONV], [ADD], {0x19: "expand_token_1"})


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x_schematic.bin"
    file.write_text(text, encoding="latin-1")
    return file


def test_schematic_is_read(tmp_path: Path) -> None:
    found = read_schematic(written(tmp_path, program()))
    assert found.main == (LOAD, WEIGHTS, VIEW, CONV)
    assert found.vector == (ADD,)
    conv = found.operators[CONV]
    # 10 × 10 pixels are four tiles of 8 × 8, 40 channels 64, 20 channels 32
    assert conv == Operator("expand_token_1", "q::ConvLayer", "hmx", 0, 6000, 16 * 16 * 64 * 9 * 32, (VIEW, WEIGHTS))
    assert found.operators[LOAD].unit == "dma"
    assert found.operators[LOAD].ddr_bytes == 2000
    assert found.operators[ADD].unit == "hvx"
    assert found.operators[VIEW].unit == ""


def test_highest_list_counts(tmp_path: Path) -> None:
    """The lists are numbered through a process: the second model of one has runlist3 and 4."""
    text = program().replace("runlist2 =", "runlist10 =").replace("runlist1 =", "runlist9 =")
    assert read_schematic(written(tmp_path, text)).main == (LOAD, WEIGHTS, VIEW, CONV)


@pytest.mark.parametrize(
    "lost", ["bandwidth_information", "graph_res_flags0", "runlist_vec", "qnn_name_translations", "graph_after_opt"]
)
def test_missing_section_is_named(tmp_path: Path, lost: str) -> None:
    with pytest.raises(ModelError, match=lost):
        read_schematic(written(tmp_path, program().replace(f"\n{lost}", "\nother")))


def test_operators_without_flags_are_refused(tmp_path: Path) -> None:
    """A changed format would otherwise make a program of transfers only, quick and wrong."""
    with pytest.raises(ModelError, match="flags"):
        read_schematic(written(tmp_path, program().replace("'flags'", "'marks'")))


def test_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn_schematic, "_MAX_BYTES", 100)
    with pytest.raises(ModelError, match="own bias"):
        read_schematic(written(tmp_path, program()))


def rates(**given: float) -> Rates:
    """Rates of 1000 bytes or products a microsecond, and nothing for beginning an operator, but for what is given."""
    return Rates(
        **{"dma_bytes": 1e3, "hmx_macs": 1e3, "hvx_bytes": 1e3, "division_bytes": 1e3, "operator_us": 0, **given}
    )


def replay(operators: dict[int, Operator], *lists: tuple[int, ...], **given: float) -> Schedule:
    return schedule(Schematic(operators, *lists), rates(**given))


def test_schedule_of_a_chain(tmp_path: Path) -> None:
    macs = 16 * 16 * 64 * 9 * 32
    found = schedule(read_schematic(written(tmp_path, program())), rates(hmx_macs=macs / 5, operator_us=1))
    # 2 + 1 for the transfer, 5 + 1 for the convolution, 6 for the addition, one after the other
    assert found.total_us == pytest.approx(3 + 6 + 6)
    assert found.busy_us == pytest.approx({"dma": 3, "hmx": 6, "hvx": 6})
    assert found.parts_us == pytest.approx({"expand_token_1": 15})
    assert found.forced == 0
    # all of it was critical, and nothing waited
    assert found.critical == pytest.approx(
        {"dma_bytes": 2000, "hmx_macs": macs, "hvx_bytes": 6000, "division_bytes": 0, "operator_us": 2}
    )


def hvx(reads: tuple[int, ...] = (), name: str = "a") -> Operator:
    return Operator(name, "q::Add", "hvx", 0, 1000, 0, reads)


def test_vector_threads_work_at_once() -> None:
    found = replay({n: hvx() for n in range(8)}, (), (), tuple(range(8)), ())
    assert found.total_us == pytest.approx(2)
    assert found.busy_us["hvx"] == pytest.approx(8)


def test_divisions_are_slower() -> None:
    operators = {1: Operator("d", "q::Div.exe", "hvx", 0, 1000, 0, ()), 2: hvx((1,))}
    found = replay(operators, (), (), (1, 2), (), division_bytes=100)
    assert found.parts_us == pytest.approx({"d": 10, "a": 1})


def test_transfer_does_not_hold_up_the_main_thread() -> None:
    operators = {1: Operator("w", "", "dma", 5000, 0, 0, ()), 2: hvx(), 3: hvx((1, 2), "b")}
    found = replay(operators, (1, 2, 3), (), (), ())
    assert found.total_us == pytest.approx(6)
    assert found.parts_us == pytest.approx({"a": 1, "w": 4, "b": 1})
    # of the transfer's five microseconds four pushed the end
    assert found.critical["dma_bytes"] == pytest.approx(4000)
    # a is hidden but for its first microsecond; each gets half of its push, and half of its share of 7 busy ones
    assert found.layers_us() == pytest.approx({"a": 0.5 + 3 / 7, "w": 2 + 15 / 7, "b": 0.5 + 3 / 7})
    assert sum(found.layers_us().values()) == pytest.approx(found.total_us)


def test_matrix_unit_has_its_own_queue_on_newer_chips() -> None:
    """A convolution of the main list holds the main thread up, one of the matrix unit's own queue does not."""
    operators = {1: Operator("c", "q::ConvLayer", "hmx", 0, 0, 3000, ()), 2: hvx(), 3: hvx()}
    assert replay(operators, (1, 2, 3), (), (), ()).total_us == pytest.approx(5)
    assert replay(operators, (2, 3), (1,), (), ()).total_us == pytest.approx(3)


def test_disagreeing_order_ends_and_is_counted() -> None:
    """Operators that wait for each other are begun all the same, and cost what they cost."""
    found = replay({1: hvx((2,)), 2: hvx((1,))}, (1,), (), (2,), ())
    assert found.forced == 1
    assert found.total_us == pytest.approx(2)


def test_long_chain_of_views_is_followed() -> None:
    views = {n: Operator("", "", "", 0, 0, 0, (n - 1,)) for n in range(1, 5000)}
    assert replay({0: hvx(), **views, 5000: hvx((4999,))}, (0, 5000), (), (), ()).total_us == pytest.approx(2)


def test_profile_is_read(tmp_path: Path) -> None:
    file = tmp_path / "profile.csv"
    file.write_text(CSV)
    assert node_cycles(file) == {"Input": [70], "expand_token_1": [1800, 1900]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "lacks the columns"),
        (CSV.replace("NODE", "ROOT"), "no layer"),
        (CSV.replace("1800", "many"), "'many' cycles"),
    ],
)
def test_damaged_profile_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "profile.csv"
    file.write_text(text)
    with pytest.raises(ModelError, match=said):
        node_cycles(file)


def test_trace_is_read(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(
        '{"summary": {"total_qnn_ops": 7}, "unsupported_nodes": '
        '[{"node_index": 2, "node_name": "q", "op_type": "QuantizeLinear", "reason": ""}]}'
    )
    assert read_trace(file) == (7, [("q", "QuantizeLinear")])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"summary": {"total_qnn_ops": -1}, "unsupported_nodes": []}'])
def test_damaged_trace_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace.json"
    file.write_text(text)
    with pytest.raises(ModelError, match="trace"):
        read_trace(file)
