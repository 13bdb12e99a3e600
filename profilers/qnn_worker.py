"""One compilation or run with Qualcomm's provider, in a process of its own: ``python -m hwnas.profilers.qnn_worker``.

Reads ``job.json`` and ``model.onnx`` from the current folder, which should be empty otherwise: the provider appends to
files that it finds and writes some of them where it stands. Ends with ``result.json``. The same function compiles for
any chip on an x86 machine and runs on the chip of a Snapdragon.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.profilers.model_io import first_line, random_input
from hwnas.profilers.qnn_session import KINDS, qnn_options, session_on_qnn

__all__ = ["main", "work"]

JOB, MODEL, RESULT = "job.json", "model.onnx", "result.json"
CSV, TRACE, CONTEXT = "profile.csv", "qnn_op_trace.json", "model_ctx.onnx"


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Compile the model of this folder, and run it as often as the job says.

    Parameters
    ----------
    job
        ``soc_model`` (None for the chip of this machine), ``runs`` and ``context`` (whether to write the binary).

    Returns
    -------
    dict
        ``compile_s``, the seconds that compiling took.
    """
    import onnxruntime

    extra = {
        "profiling_level": "optrace" if job["soc_model"] is not None else "detailed",
        "profiling_file_path": str(Path(CSV).resolve()),
        "enable_framework_op_trace": "1",
        "framework_op_trace_dir": str(Path.cwd()),
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if job["context"]:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "0")
        options.add_session_config_entry("ep.context_file_path", str(Path(CONTEXT).resolve()))
        extra["enable_htp_prepare_only"] = "1"
    start = time.perf_counter()
    session = session_on_qnn(MODEL, options, qnn_options(job["soc_model"], **extra))
    result = {"compile_s": time.perf_counter() - start}
    if job["runs"]:
        rng = np.random.default_rng(0)
        feeds = {port.name: random_input(KINDS[port.type], port.shape, rng) for port in session.get_inputs()}
        for _ in range(job["runs"]):
            session.run(None, feeds)
    del session  # writes the rest of the profile
    return result


def main() -> None:
    """Do the job of the current folder; what went wrong is in the result's ``error``."""
    try:
        result = work(json.loads(Path(JOB).read_text(encoding="utf-8")))
    except Exception as error:  # onnxruntime's errors have no common base; the parent makes a sentence of it
        result = {"error": first_line(error)}
    Path(RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
