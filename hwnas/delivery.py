"""From ranked candidates to a measured file: the last stage of a search.

Latency does not depend on what the weights are, so a candidate is measured on the device before it
is trained, and only one that fits is trained. The finished file is measured again; if it misses a
bound there, the next candidate is taken. Nothing but a run on the device is ever called measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import ranks
from hwnas.constraints import METRICS, Constraint, ConstraintSet
from hwnas.export import annotate, export_onnx
from hwnas.latency_tables import METHODS, find_table
from hwnas.network_prices import NetworkPrices
from hwnas.pricing import LatencyModel
from hwnas.profilers import Profiler, Protocol
from hwnas.run import checked
from hwnas.spaces.errors import ConfigError, InfeasibleError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from hwnas.evaluators.base import Evaluation
    from hwnas.plan import Plan
    from hwnas.profilers import Measurement
    from hwnas.run import Run
    from hwnas.spaces.graph import Graph
    from hwnas.spaces.space import Architecture
    from hwnas.training import TrainResult

__all__ = [
    "LEVEL",
    "check_devices",
    "deliver",
    "devices_of",
    "for_device",
    "latency_notes",
    "precision_of",
    "train_finalist",
]

Progress = Callable[[float, float, str], None]
#: probability of the predicted intervals that a run reports
LEVEL = 0.9
RECORDED = "recorded."


def check_devices(limits: ConstraintSet, tables: str | None, make_profiler: Callable[[str], Profiler]) -> None:
    """Refuse a latency constraint whose device cannot be measured here.

    ``latency@recorded.DEVICE`` asks for a search on a table alone, whose result is not measured.

    Raises
    ------
    DeviceUnavailable, ConfigError
        If the device is not here, or its table is of other hardware or another runtime.
    """
    precisions = set()
    for device in devices_of(limits):
        if device.startswith(RECORDED):
            continue
        profiler = make_profiler(device)
        precisions.add(profiler.file_precision)
        differences = find_table(device, tables).device.differences(profiler.device_record())
        if differences:
            raise ConfigError(
                f"the table of {device} does not hold for this machine ({'; '.join(differences)}); profile it here, "
                f"or write latency@{RECORDED}{device} to search on the table without measuring"
            )
    if len(precisions) > 1:
        raise ConfigError(
            f"one file cannot be {' and '.join(sorted(precisions))} at once; constrain devices of one precision"
        )


def devices_of(limits: ConstraintSet) -> list[str]:
    """Devices that latency constraints name, each once."""
    return list(dict.fromkeys(c.device for c in limits.constraints if c.device and c.metric == "latency"))


def deliver(run: Run, plan: Plan, ranked: Sequence[Evaluation], teacher: Any, progress: Progress | None) -> None:
    """Measure candidates from the best down until one fits; train, export and measure it; write ``best.*``.

    Raises
    ------
    InfeasibleError
        If none of the allowed number of finalists fits as measured.
    """
    measured = [device for device in devices_of(plan.limits) if not device.startswith(RECORDED)]
    profilers = {device: plan.profiler(device) for device in measured}
    tried = {tuple(entry["architecture"]): entry for entry in run.finalists()}
    for entry in tried.values():
        if entry["fits"]:  # the run was stopped between this finalist's line and best.json
            _save_best(run, plan, entry)
            return
    for candidate in ranked:
        if len(tried) >= plan.settings.finalists:
            break
        if candidate.architecture in tried or _will_miss(plan, candidate, tried.values()):
            continue
        number = f"finalist {len(tried) + 1} of at most {plan.settings.finalists}"
        entry = _finalist(run, plan, candidate, profilers, teacher, progress, number)
        run.add_finalist(entry)
        tried[candidate.architecture] = entry
        if entry["fits"]:
            _save_best(run, plan, entry)
            return
    if not tried:
        raise InfeasibleError("no candidate could be measured; loosen the constraints")
    nearest = min(tried.values(), key=lambda entry: _excess(entry["costs"]))
    shown = "; ".join(
        f"{text}: {cost['method']} {checked(cost):.4g}" for text, cost in nearest["costs"].items() if checked(cost)
    )
    raise InfeasibleError(
        f"none of the {len(tried)} finalists fits (closest: {shown}); loosen the constraint by that much, "
        "allow more --finalists in a new run, or profile the device again"
    )


def _save_best(run: Run, plan: Plan, entry: Mapping[str, Any]) -> None:
    """Make a finalist that fits the answer of the run."""
    best = {**entry, "trials": len(run.trials()), "space": plan.space.spec, "data": plan.data.name}
    content = (run.path / entry["file"]).read_bytes()
    run.save_best({**best, "choices": plan.space.describe(entry["architecture"])}, content)


def _finalist(
    run: Run,
    plan: Plan,
    candidate: Evaluation,
    profilers: Mapping[str, Profiler],
    teacher: Any,
    progress: Progress | None,
    number: str,
) -> dict[str, Any]:
    """Measure one candidate, and if it fits train, export and measure it; its record."""
    graph = plan.space.lower(candidate.architecture)
    if progress is not None:
        progress(0, 1, f"measuring: {number}")
    screened = _costs(plan, candidate.architecture, profilers, for_device(graph.to_onnx(), profilers))
    entry: dict[str, Any] = {"architecture": list(candidate.architecture), "score": candidate.score}
    if not all(cost["fits"] for cost in screened.values()):
        return {**entry, "costs": screened, "fits": False, "stage": "screened before training"}
    files, accuracies = _train_and_export(run, plan, candidate, teacher, progress, number, profilers)
    costs = _costs(plan, candidate.architecture, profilers, files[-1].read_bytes())
    fits = all(cost["fits"] for cost in costs.values())
    annotate(files[-1], _notes(plan, costs, profilers))
    entry |= {"costs": costs, "accuracy": accuracies["onnx_accuracy"], **accuracies, "fits": fits}
    return {**entry, "stage": "exported and checked", "file": str(files[-1].relative_to(run.path))}


def train_finalist(
    plan: Plan, architecture: Architecture, teacher: Any, **options: Any
) -> tuple[Graph, nn.Module, TrainResult]:
    """Train an architecture from scratch on all of the data; every rank does this at the same time.

    Parameters
    ----------
    plan, architecture
        What to train.
    teacher
        See `hwnas.training.train`.
    options
        Its checkpoint, progress and stage.
    """
    import torch

    from hwnas.training import train

    graph = plan.space.lower(architecture)
    torch.manual_seed(plan.settings.seed)
    module = graph.to_module()
    return graph, module, train(module, plan.data, plan.config, teacher=teacher, **options)


def _train_and_export(
    run: Run,
    plan: Plan,
    candidate: Evaluation,
    teacher: Any,
    progress: Progress | None,
    number: str,
    profilers: Mapping[str, Profiler],
) -> tuple[list[Path], dict[str, float]]:
    """Train from scratch and write the files: float32, and int8 if the device computes in it (the last one deploys)."""
    from hwnas.quantize import quantize_onnx

    architecture = candidate.architecture
    tag = "".join(map(str, architecture)) if max(architecture) < 10 else "-".join(map(str, architecture))
    ranks.order("train", architecture=architecture)
    graph, module, trained = train_finalist(
        plan,
        architecture,
        teacher,
        checkpoint=run.checkpoint(f"final-{tag}"),
        progress=progress,
        stage=f"training {number}",
    )
    if progress is not None:
        progress(0, 1, f"exporting: {number}")
    path = run.path / "finalists" / f"{tag}.onnx"
    notes = {"space": plan.space.spec, "architecture": list(architecture), "strategy": plan.settings.strategy}
    verified = export_onnx(graph, module, path, data=plan.data, metadata=notes)
    accuracies = {
        "valid_accuracy": trained.valid_accuracy,
        "torch_accuracy": float(verified.torch_accuracy or 0.0),
        "onnx_accuracy": verified.onnx_accuracy,
        "float32_accuracy": verified.onnx_accuracy,
    }
    if precision_of(profilers) == "float32":
        return [path], accuracies
    small = path.with_suffix(".int8.onnx")
    report = quantize_onnx(path, small, data=plan.data, seed=plan.settings.seed)
    return [path, small], {**accuracies, "onnx_accuracy": report.int8_accuracy}


def precision_of(profilers: Mapping[str, Profiler]) -> str:
    """The number format of the file to deploy: that of the devices."""
    return next((profiler.file_precision for profiler in profilers.values()), "float32")


def for_device(model: ModelProto, profilers: Mapping[str, Profiler]) -> ModelProto:
    """A model in the devices' precision, for timing only."""
    if precision_of(profilers) == "float32":
        return model
    from hwnas.quantize import quantize_for_timing

    return quantize_for_timing(model)


# ---------------------------------------------------------------------- costs


def _costs(
    plan: Plan, architecture: Architecture, profilers: Mapping[str, Profiler], model: ModelProto | bytes
) -> dict[str, dict[str, Any]]:
    """For every constraint: bound, prediction, measurement of `model` on the device, and whether it fits."""
    row = np.array([architecture])
    (predicted,) = plan.limits.values(row)
    measured = {device: profiler.measure(model, Protocol().for_networks()) for device, profiler in profilers.items()}
    found: dict[str, dict[str, Any]] = {}
    for constraint, value in zip(plan.limits.constraints, predicted.tolist(), strict=True):
        found[constraint.text] = _cost(plan.limits, constraint, value, row, measured)
    return found


def _cost(
    limits: ConstraintSet,
    constraint: Constraint,
    predicted: float,
    row: np.ndarray,
    results: Mapping[str, Measurement],
) -> dict[str, Any]:
    cost: dict[str, Any] = {"bound": constraint.bound, "predicted": predicted, "interval": None}
    if not METRICS[constraint.metric].device:
        # counted from the very graph that is exported: nothing about it is uncertain
        return {
            **cost,
            "checked": predicted,
            "measured": predicted,
            "method": "counted",
            "fits": constraint.met(predicted),
        }
    model = limits.models[str(constraint.device)]
    if isinstance(model, LatencyModel | NetworkPrices):
        low, high = model.interval(row, LEVEL)
        cost["interval"] = [float(low[0]), float(high[0])]
    result = results.get(str(constraint.device))
    if result is None:
        method = f"predicted from a table ({model.method})"
        return {**cost, "checked": None, "measured": None, "method": method, "fits": constraint.met(predicted)}
    # what a vendor's model or a simulator gives is checked against the budget as well, but never called measured
    measured = result.median_ms if result.method == "measured" else None
    spread = {"checked_interval": [result.low_ms, result.high_ms], "stable": result.stable}
    fits = constraint.met(result.median_ms)
    return {**cost, "checked": result.median_ms, "measured": measured, "method": result.method, **spread, "fits": fits}


def latency_notes(method: str, ms: float | None, interval: Sequence[float] | None) -> dict[str, Any]:
    """Entries for the file, named for how the number came to be: ``measured_ms`` or, say, ``simulated_ms``."""
    if method not in METHODS:
        return {}
    kind = method.replace("-", "_")
    return {f"{kind}_ms": ms, f"{kind}_interval_ms": None if interval is None else list(interval)}


def _excess(costs: Mapping[str, Mapping[str, Any]]) -> float:
    """How far the worst constraint is missed, as a factor; at most 1 where all are met."""
    ratios = [1.0]
    for cost in costs.values():
        value = checked(cost)
        if value is not None and not cost["fits"]:
            ratios.append(max(value / cost["bound"], cost["bound"] / value))
    return max(ratios)


def _will_miss(plan: Plan, candidate: Evaluation, tried: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a candidate would miss a bound if it exceeds its prediction as much as an earlier finalist did."""
    for constraint in plan.limits.constraints:
        value = candidate.costs.get(constraint.name)
        seen = [entry["costs"].get(constraint.text) for entry in tried if not entry["fits"]]
        ratios = [checked(c) / c["predicted"] for c in seen if c and checked(c) and not c["fits"]]
        if value is not None and ratios and not constraint.met(value * max(ratios)):
            return True
    return False


def _notes(plan: Plan, costs: Mapping[str, Mapping[str, Any]], profilers: Mapping[str, Profiler]) -> dict[str, Any]:
    """What the exported file says about its latency and its budget."""
    notes: dict[str, Any] = {"constraints": list(costs), "costs": dict(costs)}
    for constraint in plan.limits.constraints:
        cost = costs[constraint.text]
        if constraint.metric != "latency" or "device" in notes:
            continue
        notes |= {
            "device": constraint.device,
            "hardware": next(
                (p.device_record().name for key, p in profilers.items() if key == constraint.device), None
            ),
            "predicted_ms": cost["predicted"],
            "predicted_interval_ms": cost["interval"],
            "method": cost["method"],
            **latency_notes(cost["method"], checked(cost), cost.get("checked_interval")),
        }
    return notes
