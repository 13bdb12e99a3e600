"""``vpu-vpunn``: Intel's NPUs by Intel's own cost model. Nothing is run: its numbers are modelled.

Device keys: ``vpu-vpunn`` (Lunar Lake, float16), with ``.npu3700`` (Keem Bay), ``.npu3720`` (Meteor Lake) or
``.npu5010`` (Panther Lake), ``.int8`` (quantised models in QDQ form), ``.2tiles``, ... (fewer tiles than there are) and
``.1850mhz``, ... (another clock of the tensor units). The environment variable ``HWNAS_VPUNN`` names the folder, or
the one file, with the cost networks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hwnas.latency_tables import DeviceRecord
from hwnas.profilers.attribution import divide, owners_by_name
from hwnas.profilers.base import FLOOR_MS, Measurement, Model, Profiler, as_bytes
from hwnas.profilers.model_io import check_quantised
from hwnas.profilers.protocol import Protocol
from hwnas.profilers.vpunn.costs import NetworkCost, network_cost
from hwnas.profilers.vpunn.network import CostNetwork, read_network
from hwnas.profilers.vpunn.platforms import PLATFORMS, Platform, get_platform
from hwnas.profilers.vpunn.tiling import LayerCosts
from hwnas.profilers.vpunn.workload import DESCRIPTORS
from hwnas.spaces.errors import ConfigError, DeviceUnavailable, ModelError
from hwnas.spaces.graph import Graph

__all__ = ["VpuVpunn"]

#: the environment variable with the cost networks' folder or file
FOLDER = "HWNAS_VPUNN"
DEFAULT = "npu4000"
_TYPES = {"float16": "FLOAT16", "int8": "UINT8"}
_TILES = re.compile(r"([1-9]\d?)tiles?")
_CLOCK = re.compile(r"([1-9]\d{1,4})mhz")
_WHERE = "they are in the folder models of the repository intel/npu-nn-cost-model (Git LFS)"


class VpuVpunn(Profiler):
    """Models latencies of Intel's NPUs with Intel's cost networks.

    Parameters
    ----------
    precision
        ``float16``, or ``int8`` for quantised models.
    platform
        One of `hwnas.profilers.vpunn.PLATFORMS`.
    tiles
        How many of its tiles are used; None takes all.
    mhz
        Clock of its tensor units in MHz; None takes that of Intel's cost model.
    models
        Folder or file with cost networks; None takes what ``HWNAS_VPUNN`` says.

    Raises
    ------
    ConfigError
        If there is no such platform, or it has fewer tiles.
    DeviceUnavailable
        If there is no cost network of the platform.
    ModelError
        If its file is damaged, or of another platform.
    """

    name = "vpu-vpunn"
    device_class = "vpu"
    summary = "Intel's NPUs (Meteor, Lunar, Panther Lake, Keem Bay) by Intel's cost model, modelled"
    precisions = ("float16", "int8")
    method = "modelled"
    computes = True

    def __init__(
        self,
        *,
        precision: str | None = None,
        threads: int = 1,
        batch: int = 1,
        platform: str = DEFAULT,
        tiles: int | None = None,
        mhz: int | None = None,
        models: str | Path | None = None,
    ) -> None:
        super().__init__(precision=precision, threads=threads, batch=batch)
        whole = get_platform(platform)
        if tiles is not None and not 1 <= tiles <= whole.tiles:
            raise ConfigError(f"{whole.name} ({platform}) has 1 to {whole.tiles} tiles, not {tiles}")
        self.platform: Platform = replace(
            whole,
            tiles=whole.tiles if tiles is None else tiles,
            dpu_mhz=whole.dpu_mhz if mhz is None else mhz,
        )
        self.file = _find(whole, models)
        self._graphs: tuple[bytes, Graph] | None = None

    @classmethod
    def from_qualifiers(cls, qualifiers: Sequence[str], **options: Any) -> VpuVpunn:
        """Make the profiler that a device key names, such as ``["npu3720", "int8", "2tiles", "1850mhz"]``."""
        settings: dict[str, Any] = {}
        others = []
        for qualifier in qualifiers:
            if qualifier in PLATFORMS:
                setting: tuple[str, Any] = ("platform", qualifier)
            elif found := _TILES.fullmatch(qualifier):
                setting = ("tiles", int(found[1]))
            elif found := _CLOCK.fullmatch(qualifier):
                setting = ("mhz", int(found[1]))
            elif qualifier in cls.precisions:
                others.append(qualifier)
                continue
            else:
                raise ConfigError(
                    f"{cls.name} has no qualifier {qualifier!r}; it takes {', '.join((*PLATFORMS, *cls.precisions))}, "
                    "2tiles, ... and 1850mhz, ..."
                )
            if setting[0] in settings:
                raise ConfigError(f"the {setting[0]} of {cls.name} is given twice: {'.'.join(qualifiers)}")
            settings[setting[0]] = setting[1]
        made = super().from_qualifiers(others, **{**settings, **options})
        assert isinstance(made, VpuVpunn)
        return made

    @property
    def key(self) -> str:
        """Device key: the platform, the precision, tiles and clock where they differ from the defaults."""
        usual = PLATFORMS[self.platform.key]
        parts = [self.name]
        if self.platform.key != DEFAULT:
            parts.append(self.platform.key)
        if self.precision != self.precisions[0]:
            parts.append(self.precision)
        if self.platform.tiles != usual.tiles:
            parts.append(f"{self.platform.tiles}tiles")
        if self.platform.dpu_mhz != usual.dpu_mhz:
            parts.append(f"{self.platform.dpu_mhz:.0f}mhz")
        return ".".join(parts)

    @classmethod
    def unavailable(cls) -> str | None:
        """None if there is a cost network of at least one platform."""
        names = ", ".join(f"{platform.files[0]} ({platform.name})" for platform in PLATFORMS.values())
        place = os.environ.get(FOLDER)
        if not place:
            return f"set {FOLDER} to the folder with Intel's cost networks, {names}; {_WHERE}"
        if Path(place).is_file() or any(_files(platform, Path(place)) for platform in PLATFORMS.values()):
            return None
        return f"{FOLDER} is {place}, where there is none of Intel's cost networks, {names}; {_WHERE}"

    # ------------------------------------------------------------------ costs

    @cached_property
    def costs(self) -> LayerCosts:
        """The platform with its cost network, which is read when it is first used."""
        return LayerCosts(self._network, self.platform)

    @cached_property
    def _network(self) -> CostNetwork:
        network = read_network(self.file)
        if network.descriptor not in self.platform.descriptors:
            wanted = " or ".join(map(str, self.platform.descriptors))
            raise ModelError(
                f"{self.file} takes descriptors of version {network.descriptor}, "
                f"but that of {self.platform.name} ({self.platform.key}) takes version {wanted}; point to its own file"
            )
        if network.inputs != (size := DESCRIPTORS[network.descriptor][0]):
            raise ModelError(f"{self.file} takes {network.inputs} numbers, not {size}: it is damaged; fetch it again")
        return network

    def network_cost(self, model: Model | Graph) -> NetworkCost:
        """What a model costs, layer by layer.

        Raises
        ------
        ModelError
            If it is no model, or the device is ``.int8`` and the model is not quantised.
        """
        graph = model if isinstance(model, Graph) else self._read(as_bytes(model))
        return network_cost(graph, self.costs, _TYPES[self.precision])

    def _read(self, data: bytes) -> Graph:
        if self._graphs is None or self._graphs[0] != data:  # measuring and dividing follow each other
            if self.precision == "int8":
                check_quantised(data, self.key)
            self._graphs = data, Graph.from_onnx(data)
        return self._graphs[1]

    # ------------------------------------------------------------------ a profiler

    def device_record(self, protocol: Protocol | None = None) -> DeviceRecord:
        """The platform and its cost network; the machine that computes does not matter."""
        platform, network = self.platform, self._network
        return DeviceRecord(
            key=self.key,
            name=f"Intel {platform.name} ({platform.key}), {platform.tiles} tiles at {platform.dpu_mhz:g} MHz",
            device_class=self.device_class,
            runtime="VPUNN",
            runtime_version=f"{network.name.split()[0]} {network.digest[:12]}",
            precision=self.precision,
            threads=1,
            batch=1,
            method=self.method,
            host={"cpu": platform.name, "machine": platform.key, "ddr_mbps": platform.ddr_mbps},
        )

    def measure(self, model: Model, protocol: Protocol | None = None) -> Measurement:
        """Modelled latency of one model; the same at every call, so its interval has no width."""
        ms = max(FLOOR_MS, self.network_cost(model).total_us / 1e3)
        return Measurement(ms, ms, ms, repeats=1, stable=True, method=self.method)

    def kernel_shares(
        self, model: Model, nodes: Collection[str] | None = None, protocol: Protocol | None = None
    ) -> dict[str, float] | None:
        """Divide the modelled time among the kernels; transfers of inputs and outputs go to the first and the last."""
        cost = self.network_cost(model)
        times = {layer.name: layer.us + layer.wait_us for layer in cost.layers}
        times[cost.layers[0].name] += cost.input_us
        times[cost.layers[-1].name] += cost.output_us
        return divide(times, owners_by_name(times, times if nodes is None else nodes), nodes)


def _files(platform: Platform, place: Path) -> list[Path]:
    return [place / name for name in platform.files if (place / name).is_file()]


def _find(platform: Platform, models: str | Path | None) -> Path:
    """The file with the platform's cost network."""
    given = models if models is not None else os.environ.get(FOLDER)
    names = " or ".join(platform.files)
    if not given:
        raise DeviceUnavailable(f"set {FOLDER} to the folder with {names}, Intel's cost network; {_WHERE}")
    place = Path(given)
    if place.is_file():
        return place
    if found := _files(platform, place):
        return found[0]
    raise DeviceUnavailable(f"{platform.name} ({platform.key}) needs {names}, which is not in {place}; {_WHERE}")
