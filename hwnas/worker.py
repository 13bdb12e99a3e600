"""``python -m hwnas.worker RUN``: evaluates candidates of a run from scratch, for `hwnas.engine.LocalEngine`.

Reads ``{"architecture": [...]}`` lines from standard input, and answers each with an evaluation or ``{"error": text}``.
It ends with its input: a search that is killed leaves no worker behind.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO

from hwnas.evaluators.scratch import ScratchEvaluator
from hwnas.plan import SearchSettings, TrainingPlan
from hwnas.run import Run
from hwnas.spaces.errors import HwnasError

__all__ = ["main"]


def _lines(stream: IO[str]) -> queue.SimpleQueue[str]:
    """The lines of `stream`, read by a thread that ends the process with the stream, whatever it is doing."""
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            found.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return found


def main(arguments: list[str] | None = None) -> None:
    """Evaluate until the input ends."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m hwnas.worker", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the training")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not look like an answer
    questions = _lines(sys.stdin)
    run = Run.open(options.run, write=False)
    plan = TrainingPlan(SearchSettings.from_run(run.settings))
    evaluator = ScratchEvaluator.of_plan(plan, run.path / "checkpoints")
    while True:
        architecture = json.loads(questions.get())["architecture"]
        try:
            (evaluation,) = evaluator.evaluate([architecture])
            answer = evaluation.to_json()
        except HwnasError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
