"""Runs models with OpenVINO 2021.4 in a Python of its own, for the device ``vpu-myriad``.

That OpenVINO is the last one that drives a Myriad X, and it ends at Python 3.9: `hwnas.profilers.vpu_myriad` starts
this file with such a Python. So it stands alone: it knows nothing of hwnas, and keeps to what Python 3.7 can read. It
takes a request a line as JSON on standard input, answers each with a line on standard output, and ends with its input.

Requests have a key ``do``, and an answer is a dictionary, with the key ``error`` where something went wrong:

- ``facts``: versions, the names of the devices that OpenVINO finds, and what the device ``device`` is called;
- ``load``: the model file ``model`` on ``device`` with ``settings``; gives its ``handle``;
- ``time``: ``calls`` inferences of ``handle``, one after the other; gives the mean, ``ms``, by this process's clock;
- ``layers``: the layers that run in ``handle`` in their order, with the microseconds of each in ``calls`` inferences;
- ``outputs``: those of ``handle`` for the arrays in the file ``inputs`` (npz), into the file ``outputs``.

Handles in the list ``drop``, which any request may have, are closed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

__all__ = ["main"]


class _Models:
    """The models that are loaded, by handle."""

    def __init__(self, core: Any) -> None:
        self.core, self.count = core, 0
        self.loaded: dict[int, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        for handle in request.get("drop", ()):
            self.loaded.pop(handle, None)
        return getattr(self, request["do"])(request)  # type: ignore[no-any-return]

    def facts(self, request: dict[str, Any]) -> dict[str, Any]:
        import openvino.inference_engine as engine

        devices = list(self.core.available_devices)
        name = ""
        if any(device.split(".")[0] == request["device"] for device in devices):
            name = self.core.get_metric(request["device"], "FULL_DEVICE_NAME")
        python = ".".join(map(str, sys.version_info[:3]))
        return {"openvino": engine.__version__, "python": python, "devices": devices, "name": name.strip()}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        import numpy

        network = self.core.read_network(request["model"])
        compiled = self.core.load_network(network, request["device"], request["settings"], num_requests=1)
        rng = numpy.random.RandomState(0)
        inputs = compiled.requests[0].input_blobs
        for blob in inputs.values():
            values, shape = blob.buffer, blob.tensor_desc.dims
            if numpy.issubdtype(values.dtype, numpy.floating):
                values[:] = rng.standard_normal(shape)
            else:
                values[:] = numpy.zeros(shape)
        compiled.requests[0].infer()
        self.count += 1
        self.loaded[self.count] = compiled
        return {"handle": self.count}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        infer, calls = self.loaded[request["handle"]].requests[0].infer, request["calls"]
        start = time.perf_counter()
        for _ in range(calls):
            infer()
        return {"ms": (time.perf_counter() - start) / calls * 1e3}

    def layers(self, request: dict[str, Any]) -> dict[str, Any]:
        compiled = self.loaded[request["handle"]]
        spent: dict[str, list[int]] = {}
        for _ in range(request["calls"]):
            compiled.requests[0].infer()
            for name, counted in compiled.requests[0].get_perf_counts().items():
                spent.setdefault(name, []).append(counted["real_time"])
        found = _executed(compiled)
        for layer in found:
            # the CPU counts by the layer's own name, the Myriad by the names of the layers it was made of
            name = layer["name"] if layer["name"] in spent else ",".join(layer["of"])
            layer["us"] = spent.pop(name, [])  # several stages of one layer are counted as one
        return {"layers": found}

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        import numpy

        with numpy.load(request["inputs"], allow_pickle=False) as arrays:
            found = self.loaded[request["handle"]].infer({name: arrays[name] for name in arrays.files})
        numpy.savez(request["outputs"], **found)
        return {"names": list(found)}


def _executed(compiled: Any) -> list[dict[str, Any]]:
    """The layers of the compiled network in the order in which they run, as it writes them to a file."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("network.xml", "network.bin")]
        compiled.get_exec_graph_info().serialize(*files)
        root = ElementTree.parse(files[0]).getroot()
    names = {layer.get("id"): layer.get("name") for layer in root.iter("layer")}
    reads: dict[Any, list[Any]] = {}
    for edge in root.iter("edge"):
        reads.setdefault(edge.get("to-layer"), []).append(names[edge.get("from-layer")])
    found = []
    for layer in root.iter("layer"):
        about = layer.find("data")
        data = {} if about is None else about.attrib
        of = [name for name in data.get("originalLayersNames", "").split(",") if name]
        read = reads.get(layer.get("id"), [])
        entry = {"name": layer.get("name"), "type": layer.get("type"), "of": of, "reads": read}
        found.append((int(data.get("execOrder", -1)), entry))
    return [entry for order, entry in sorted(found, key=lambda pair: pair[0]) if order >= 0]


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    models = problem = None
    try:
        from openvino.inference_engine import IECore

        models = _Models(IECore())
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    for line in sys.stdin:
        try:
            answer = {"error": problem} if models is None else models.answer(json.loads(line))
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of many texts
            answer = {"error": str(error).strip() or type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
