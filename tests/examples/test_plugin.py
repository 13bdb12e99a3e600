"""The plug-in of `examples/plugin`, installed beside hwnas: the worked example of CONTRIBUTING.md is true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

KERNEL_AND_SPACE = """
import json, numpy as np, onnx, onnxruntime, torch
from hwnas.spaces import get_space
from hwnas.spaces.supernet import Supernet

space = get_space("tower(resolution=8,channels=1)")
supernet = Supernet(space).eval()
x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
worst = 0.0
for architecture in space.sample(5, np.random.default_rng(0)).tolist():
    graph = space.lower(architecture)
    module = graph.to_module().eval()
    module.load_state_dict(supernet.weights_of(architecture))
    assert graph.params == sum(p.numel() for p in module.parameters())
    model = graph.to_onnx(module.state_dict(), batch="n")
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    with torch.no_grad():
        expected = module(x)
        assert torch.equal(expected, supernet(x, architecture))
    (found,) = session.run(None, {"input": x.numpy()})
    worst = max(worst, float(np.abs(found - expected.numpy()).max()))
print(json.dumps({"worst": worst, "size": space.size}))
"""

DEVICE = """
import json
from hwnas.profilers import get_profiler
from hwnas.profilers.testing import check_profiler

check_profiler(get_profiler("cpu-onnxreference"))
print(json.dumps("conforms"))
"""

STRATEGY = """
import json
from hwnas.evaluators import Evaluation
from hwnas.spaces import get_space
from hwnas.strategies import get_strategy, make_strategy
from hwnas.strategies.testing import check_strategy

check_strategy(get_strategy("hill-climbing"))
space = get_space("tower(resolution=8,channels=1)")
strategy = make_strategy("hill-climbing", space, seed=1, start=3)
while architectures := strategy.ask(4):
    strategy.tell([Evaluation(a, float(-sum(a))) for a in architectures])
print(json.dumps({"best": strategy.best.architecture}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plug-in was installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(
        ROOT / "examples" / "plugin", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(installed: Path, *command: str) -> Any:
    """JSON output of a Python command with the plug-in in its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    full = [sys.executable, *command]
    done = subprocess.run(full, capture_output=True, text=True, env=environment, cwd=installed, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("listing", "name"), [("spaces", "tower"), ("devices", "cpu-onnxreference"), ("strategies", "hill-climbing")]
)
def test_what_a_plugin_adds_is_listed(installed: Path, listing: str, name: str) -> None:
    assert name in {entry["name"] for entry in run(installed, "-m", "hwnas", listing, "--json")}


def test_its_kernel_and_space_train_and_deploy_alike(installed: Path) -> None:
    result = run(installed, "-c", KERNEL_AND_SPACE)
    assert result["worst"] < 1e-4
    assert result["size"] == 3**4


def test_its_device_conforms(installed: Path) -> None:
    assert run(installed, "-c", DEVICE) == "conforms"


def test_its_strategy_conforms_and_finds_the_best(installed: Path) -> None:
    assert run(installed, "-c", STRATEGY)["best"] == [0, 0, 0, 0]
