"""The winner of a run as a backbone: trained for the run's task, exported up to its pooled features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hwnas.export import check_model, set_metadata
from hwnas.export_run import ExportResult, Progress, measure_file
from hwnas.spaces.errors import ConfigError, ModelError
from hwnas.spaces.files import atomic_write
from hwnas.spaces.graph import Graph
from hwnas.spaces.kernels import GlobalPool

__all__ = ["export_backbone", "features"]

#: Largest difference of a feature between onnxruntime and torch, relative to the largest feature.
TOLERANCE = 1e-3
#: Random inputs that the two are compared on.
COMPARED = 16


def features(graph: Graph) -> Graph:
    """The network up to its last global pooling: images ``(1, C, H, W)`` to features ``(1, F)``.

    Raises
    ------
    ModelError
        If it has no global pooling.
    """
    pools = [index for index, node in enumerate(graph.nodes) if isinstance(node.kernel, GlobalPool)]
    if not pools:
        raise ModelError("the network has no global pooling, and so no features to end in")
    kept = graph.nodes[: pools[-1] + 1]
    return Graph(kept, graph.inputs, [kept[-1].name], graph.label).pruned()


def export_backbone(
    run: str | Path,
    *,
    output: str | Path | None = None,
    measure: bool = True,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Train the winner of a run for the run's task, and export what lies before the classifier.

    For a label-free task no label is read. The network takes images of the data set's size (one channel, the lightness,
    for colorization); its weights are those of the task, which saw tiles where the task is a jigsaw. A training that
    was stopped goes on.

    Parameters
    ----------
    run
        Folder of a finished run.
    output
        The file to write; ``backbone.onnx`` in the run folder if not given.
    measure
        Whether to measure it on the run's devices.
    data_root
        Folder of the data set, if it is not where the run found it.
    progress
        Called as ``progress(done, total, text)``.

    Returns
    -------
    ExportResult
        Its accuracies are those on the task's test examples, of the network with its end.

    Raises
    ------
    ConfigError
        If the run has no winner yet.
    ModelError
        If onnxruntime and torch do not compute the same features.
    """
    import torch

    from hwnas import __version__
    from hwnas.plan import Plan, SearchSettings
    from hwnas.run import Run
    from hwnas.tasks import get_task
    from hwnas.training import train

    with Run.open(run) as opened:
        best = opened.best
        if best is None:
            raise ConfigError(
                f"the run {opened.path} has no winner yet; finish it with: hwnas search --resume {opened.path}"
            )
        settings = SearchSettings.from_run(opened.settings)
        plan = Plan(settings if data_root is None else replace(settings, data_root=data_root))
        architecture = plan.space.validate(best["architecture"])
        torch.manual_seed(settings.seed)
        trained = plan.task_space.lower(architecture).to_module()
        tag = "-".join(map(str, architecture))
        result = train(
            trained,
            plan.task_data,
            plan.config,
            checkpoint=opened.checkpoint(f"backbone-{tag}"),
            progress=progress,
            stage=f"training for {settings.task}",
        )
        target = opened.path / "backbone.onnx" if output is None else Path(output)
        whole = type(plan.space)(**{**plan.space.parameters, "channels": plan.task_data.channels})
        graph = features(whole.lower(architecture))
        module = graph.to_module().eval()
        weights = trained.state_dict()
        module.load_state_dict({name: weights[name] for name in module.state_dict()})
        model = graph.to_onnx(module.state_dict())
        set_metadata(
            model,
            {
                "space": whole.spec,
                "architecture": list(architecture),
                "data": plan.data.name,
                "version": __version__,
                "precision": "float32",
                "task": settings.task,
                "input": get_task(settings.task).inputs,
                "mean": list(plan.task_data.mean),
                "std": list(plan.task_data.std),
                "output": "features",
                "task_accuracy": result.test_accuracy,
            },
        )
        check_model(model)
        _compare(model.SerializeToString(), module, whole.input_shape)
        atomic_write(target, model.SerializeToString())
        measured = measure_file(target, settings, "float32") if measure else {}
    return ExportResult(
        onnx=str(target),
        precision="float32",
        bytes=target.stat().st_size,
        accuracy=result.test_accuracy,
        float32_accuracy=result.test_accuracy,
        latency_ms={device: found.median_ms for device, found in measured.items()},
        interval_ms={device: (found.low_ms, found.high_ms) for device, found in measured.items()},
        method=next((found.method for found in measured.values()), None),
    )


def _compare(model: bytes, module: object, shape: tuple[int, ...]) -> None:
    """Run random inputs through onnxruntime and torch."""
    import onnxruntime as ort
    import torch

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(0).normal(size=(COMPARED, *shape)).astype(np.float32)
    worst = 0.0
    for x in inputs:
        (ours,) = session.run(None, {session.get_inputs()[0].name: x})
        with torch.no_grad():
            theirs = module(torch.from_numpy(x)).numpy()  # type: ignore[operator]
        worst = max(worst, float(np.abs(ours - theirs).max()) / max(1e-6, float(np.abs(theirs).max())))
    if worst > TOLERANCE:
        raise ModelError(f"onnxruntime and torch differ by {worst:.2g} of the largest feature; nothing was written")
