"""Several ranks: the result of one process, checkpoints of any number of them, and ranks that die or stand still."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas import ranks
from hwnas.data.image_folder import Decoder, FolderSplit
from hwnas.plan import Plan, SearchSettings
from hwnas.ranks import Share
from hwnas.run import Run
from hwnas.spaces.errors import ConfigError
from hwnas.training import load_checkpoint
from tests.hwnas import ranks_work as work

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="this torch lacks gloo"
)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **loopback, **more}


def torchrun(port: int, *command: str) -> list[str]:
    return [*TORCHRUN, "--master-port", str(port), *command]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# ---------------------------------------------------------------------- shares


def test_shares_are_the_whole_in_order() -> None:
    order = np.arange(66)
    for count, number in ((33, 2), (11, 3), (6, 6)):
        shares = [Share(rank, number) for rank in range(number)]
        assert sum(share.weight(count) for share in shares) == pytest.approx(1)
        steps = [share.of_steps(order, count).reshape(66 // count, -1) for share in shares]
        assert (np.concatenate(steps, axis=1).ravel() == order).all()
        assert max(step.shape[1] for step in steps) - min(step.shape[1] for step in steps) <= 1
        assert np.concatenate([share.of_all(7) for share in shares]).tolist() == list(range(7))  # type: ignore[misc]
    with pytest.raises(ConfigError, match="a batch of 3 images cannot be shared by 4 ranks"):
        Share(0, 4).weight(3)


def test_one_process_is_a_rank_of_its_own() -> None:
    ranks.start()
    assert (ranks.rank(), ranks.size(), ranks.leads()) == (0, 1, True)
    tensor = torch.ones(2)
    assert ranks.total(tensor) is tensor
    assert ranks.broadcast({"a": 1}) == {"a": 1}
    ranks.order("nothing")


def test_a_rank_reads_its_share_as_one_process_would() -> None:
    data = work.digits()
    whole = list(data.training_batches(33, seed=3, epoch=1))
    parts = [list(data.training_batches(33, seed=3, epoch=1, share=Share(rank, 3))) for rank in range(3)]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part[0] for part in shares]), images)
        assert torch.equal(torch.cat([part[1] for part in shares]), labels)
    judged = [list(data.batches(data.valid, 50, share=Share(rank, 3))) for rank in range(3)]
    together = torch.cat([images for share in judged for images, _ in share])
    assert torch.equal(together, torch.cat([images for images, _ in data.batches(data.valid, 50)]))


class Counting(Decoder):
    """A decoder that remembers what it was given."""

    def __call__(self, path: str, rng: np.random.Generator | None = None) -> np.ndarray:
        decoded.append(path)
        return np.zeros((1, 4, 4), dtype=np.uint8)


decoded: list[str] = []


def test_a_rank_decodes_only_its_share() -> None:
    split = FolderSplit([str(i) for i in range(66)], np.zeros(66, dtype=np.int64), Counting(4, 1))
    data = replace(work.digits(), train=split, channels=1, resolution=4)
    decoded.clear()
    sizes = [len(labels) for _, labels in data.training_batches(33, seed=0, epoch=0, share=Share(1, 2))]
    assert sizes == [17, 17]
    assert len(decoded) == len(set(decoded)) == 34


def test_worker_processes_are_refused_on_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 2)
    settings = SearchSettings(work.SPACE, "digits", ("flops <= 1M",), evaluator="scratch", jobs=2)
    with pytest.raises(ConfigError, match="jobs=2 starts worker processes of its own, which 2 ranks"):
        Plan(settings)


# ---------------------------------------------------------------------- two ranks


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two ranks computed."""
    folder = tmp_path_factory.mktemp("two")
    work.stop_after_one_epoch(folder / "of-one.safetensors")
    command = torchrun(free_port(), work.__file__, str(folder))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def compare(folder: Path, name: str, weights: dict[str, Any], found: Any, tolerance: float = 1e-5) -> None:
    theirs, meta = load_checkpoint(folder / f"{name}.safetensors")
    assert theirs.keys() == weights.keys()
    worst = {key: float((theirs[key] - value).abs().max()) for key, value in weights.items()}
    key = max(worst, key=worst.__getitem__)
    assert worst[key] < tolerance, f"{name}: {key} differs by {worst[key]}"
    for ours, other in zip(flat(found), flat(meta["found"]), strict=True):
        assert ours == pytest.approx(other, abs=tolerance)


def flat(value: Any) -> list[float]:
    return [x for part in value for x in flat(part)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("name", ["rotated", "supernet", "shared"])
def test_two_ranks_end_where_one_process_ends(two: Path, name: str) -> None:
    compare(two, name, *work.WORK[name]())


def test_a_mixture_moves_as_in_one_process(two: Path) -> None:
    compare(two, "mixture", *work.mixture(), tolerance=2e-3)  # in float32


def test_the_number_of_ranks_may_change(two: Path) -> None:
    weights, found = work.final()
    compare(two, "final", weights, found)
    compare(two, "resumed", weights, found)  # begun by one process, ended by two
    resumed, again = work.final(two / "of-two.safetensors")
    assert max(float((resumed[key] - value).abs().max()) for key, value in weights.items()) < 1e-5
    assert flat(again) == pytest.approx(flat(found), abs=1e-5)


def test_ranks_out_of_step_are_noticed(two: Path) -> None:
    for rank in range(2):
        assert "their own numbers differ between ranks" in json.loads((two / f"rank-{rank}.json").read_text())


# ---------------------------------------------------------------------- faults


def test_a_rank_that_stands_still_is_given_up() -> None:
    script = "\n".join(
        [
            "import os, signal, torch",
            "from hwnas import ranks",
            "ranks.start(timeout=4)",
            "ranks.total(torch.ones(1))",
            "if not ranks.leads(): os.kill(os.getpid(), signal.SIGSTOP)",
            "try: ranks.total(torch.ones(1))",
            "except ranks.RankError as error: print(error, flush=True)",
            "os._exit(3)",
        ]
    )
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said, _ = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 3
        assert "another rank ended or did not answer within 4 s" in said
        assert "resume the run with any number of ranks" in said
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="children are found in /proc")
def test_a_killed_rank_ends_the_search_and_it_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    search = ["search", "--space", work.SPACE, "--data", "digits", "--constraint", "flops <= 1M", "--run", str(run)]
    search += ["--strategy", "random", "--evaluations", "3", "--supernet-epochs", "6", "--epochs", "1"]
    search += ["--limit", "70", "--batch-size", "33", "--threads", "1", "--distill"]
    command = torchrun(free_port(), "-m", "--", "hwnas")
    process = subprocess.Popen(
        [*command, *search], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 180
        checkpoint = run / "checkpoints" / "supernet.safetensors"
        while not checkpoint.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(second_rank(process.pid), signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert said == ""
    finally:
        process.kill()
    assert not (run / "best.json").exists()
    done = subprocess.run(
        [*command, "search", "--resume", str(run), "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(run)  # one rank prints
    opened = Run.open(run, write=False)
    assert len(opened.trials()) == 3
    assert opened.onnx.exists()
    assert load_checkpoint(checkpoint)[1]["epoch"] == 6


def second_rank(launcher: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("there is no rank 1")
