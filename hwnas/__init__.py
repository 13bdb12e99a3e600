"""Hardware-aware neural architecture search.

Name a device, a budget and a data set; hwnas returns an ONNX file whose latency on that device was
measured, whose accuracy was tested, and which fits the budget::

    import hwnas

    hwnas.profile("cpu-onnxruntime", "mobilenet", data="digits", quick=True)
    result = hwnas.search("mobilenet", "digits", ["latency@cpu-onnxruntime <= 1ms"])
    print(result.onnx, result.accuracy, result.costs)

Importing this package imports nothing heavy: every name below is loaded when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.backbone import export_backbone
    from hwnas.compare import compare_devices as compare
    from hwnas.export_run import export_run as export
    from hwnas.kernel_profiling import profile_kernels
    from hwnas.latency_predictor import LatencyPredictor, choose_items
    from hwnas.network_import import import_networks
    from hwnas.operator_pool import select_pool
    from hwnas.predict import predict
    from hwnas.profiling import profile
    from hwnas.report import make_report as report
    from hwnas.run import Run
    from hwnas.search import resume, search
    from hwnas.spaces.errors import HwnasError
    from hwnas.spaces.graph import Graph
    from hwnas.spaces.space import SearchSpace, get_space
    from hwnas.tuning import tune

__version__ = "0.1.0"

# The four floors are one package when installed. In a source tree three of them lie beside this folder, which
# an interpreter started there finds first: then they are found, too.
_FOLDER = Path(__file__).parent
if not (_FOLDER / "spaces").is_dir():
    __path__.append(str(_FOLDER.parent))

_HOME = {
    "Graph": "hwnas.spaces.graph:Graph",
    "HwnasError": "hwnas.spaces.errors:HwnasError",
    "LatencyPredictor": "hwnas.latency_predictor:LatencyPredictor",
    "Run": "hwnas.run:Run",
    "SearchSpace": "hwnas.spaces.space:SearchSpace",
    "choose_items": "hwnas.latency_predictor:choose_items",
    "compare": "hwnas.compare:compare_devices",
    "export": "hwnas.export_run:export_run",
    "export_backbone": "hwnas.backbone:export_backbone",
    "get_space": "hwnas.spaces.space:get_space",
    "import_networks": "hwnas.network_import:import_networks",
    "predict": "hwnas.predict:predict",
    "profile": "hwnas.profiling:profile",
    "profile_kernels": "hwnas.kernel_profiling:profile_kernels",
    "report": "hwnas.report:make_report",
    "resume": "hwnas.search:resume",
    "search": "hwnas.search:search",
    "select_pool": "hwnas.operator_pool:select_pool",
    "tune": "hwnas.tuning:tune",
}

__all__ = [
    "Graph",
    "HwnasError",
    "LatencyPredictor",
    "Run",
    "SearchSpace",
    "__version__",
    "choose_items",
    "compare",
    "export",
    "export_backbone",
    "get_space",
    "import_networks",
    "predict",
    "profile",
    "profile_kernels",
    "report",
    "resume",
    "search",
    "select_pool",
    "tune",
]


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _HOME[name].split(":")
    except KeyError:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}") from None
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``hwnas.search`` the function, although importing the module of the same name would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
