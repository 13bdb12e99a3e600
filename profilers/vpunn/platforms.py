"""The NPUs that Intel's cost model covers: clocks, tiles, memory and what their SHAVE processors take.

Clocks, bandwidths, latencies and the fits of SHAVE operators are those of intel/npu-nn-cost-model (Apache-2.0; its
folders ``include/vpu/hw_characteristics`` and ``src/shave``). The compiler reports other clocks, so all of them can be
replaced: ``dataclasses.replace(PLATFORMS["npu4000"], dpu_mhz=1850)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwnas.spaces.errors import ConfigError

__all__ = ["PLATFORMS", "Platform", "get_platform"]


@dataclass(frozen=True)
class Platform:
    """One generation of Intel's NPU.

    Attributes
    ----------
    key
        Name as in the compiler's ``NPU_PLATFORM``, in lower case.
    name
        In words.
    files
        Names of files that hold its cost network, the preferred one first.
    descriptors
        Versions of the descriptor that its cost networks take.
    tiles, dpus, shaves
        Tiles; tensor units and SHAVE processors of a tile.
    dpu_mhz, cmx_mhz
        Clock of the tensor units, which cycles are of, and of the memory of a tile.
    ddr_mbps, ddr_ns, dma_ports
        Megabytes a second and latency of a transfer from or to memory, and transfers at a time.
    cmx_bytes
        Bytes that a transfer within the tiles moves in a cycle of `cmx_mhz`.
    modes
        Modes of the tensor unit that an operation can choose from; what is not there takes ``CUBOID_16x16``. Products
        of two tensors (``ELTWISE_MUL``) run on SHAVE where they are not there.
    mixed_chunks
        Whether channels may be divided into chunks of different sizes.
    shave
        By operator: microseconds a byte of float16 output, and microseconds to begin with, of one SHAVE.
    """

    key: str
    name: str
    files: tuple[str, ...]
    descriptors: tuple[int, ...]
    tiles: int
    dpus: int
    shaves: int
    dpu_mhz: float
    cmx_mhz: float
    ddr_mbps: float
    ddr_ns: float
    cmx_bytes: int
    dma_ports: int = 2
    modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mixed_chunks: bool = False
    shave: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = ("tiles", "dpus", "shaves", "dpu_mhz", "cmx_mhz", "ddr_mbps", "cmx_bytes", "dma_ports")
        for name in numbers:
            if not getattr(self, name) > 0:
                raise ConfigError(f"the {name} of {self.key} must be more than 0, not {getattr(self, name)}")

    def ddr_us(self, size: int) -> float:
        """Microseconds of one transfer of `size` bytes from or to memory."""
        return self.ddr_ns / 1e3 + size / self.ddr_mbps if size else 0.0

    def cmx_us(self, size: int, piece: int | None = None) -> float:
        """Microseconds to move `size` bytes within the tiles, `piece` bytes a cycle (None: as many as there can be)."""
        return size / min(piece or self.cmx_bytes, self.cmx_bytes) / self.cmx_mhz / self.dma_ports

    def shave_us(self, operator: str, elements: int) -> float:
        """Microseconds of an operator with so many outputs on all SHAVE processors.

        Their work is divided, the time to begin with is not. What has no fit takes a cycle of the tensor unit's clock
        an output, as Intel's own default has it.
        """
        slope, start = self.shave.get(operator, (0.5 / self.dpu_mhz, 0.0))
        return 2 * elements * slope / (self.shaves * self.tiles) + start


_CUBOIDS = ("CUBOID_16x16", "CUBOID_8x16", "CUBOID_4x16")
_MODES = {"CONVOLUTION": _CUBOIDS, "ELTWISE": ("CUBOID_8x16",)}
#: slopes and intercepts of shave_layers_vpu_2_7.csv; multiplication has none there and is scaled from that of 4.0
_SHAVE_27 = {
    "abs": (1.768e-4, 2.568),
    "sigmoid": (1.485e-4, 3.133),
    "hsigmoid": (6.429e-4, 2.992),
    "elu": (4.596e-4, 2.911),
    "mish": (1.253e-3, 2.736),
    "exp": (4.179e-4, 2.658),
    "sqrt": (4.179e-4, 2.696),
    "log": (4.175e-4, 2.471),
    "erf": (1.645e-2, 4.116),
    "tanh": (2.993e-4, 2.686),
    "swish": (6.484e-4, 3.094),
    "hswish": (7.247e-4, 3.694),
    "gelu": (1.604e-3, 3.845),
    "mul": (3.097e-4, 1.965),
}
#: slopes and intercepts of shave_layers_vpu_40.csv, which Intel uses for 5.0 as well
_SHAVE_40 = {
    "abs": (4.023e-5, 2.238),
    "sigmoid": (4.020e-5, 3.399),
    "hsigmoid": (6.748e-5, 3.276),
    "elu": (1.228e-4, 3.156),
    "mish": (2.378e-4, 2.987),
    "exp": (4.025e-5, 3.408),
    "sqrt": (4.026e-5, 1.421),
    "log": (4.036e-5, 3.347),
    "erf": (8.447e-3, 1.861),
    "tanh": (4.024e-5, 3.381),
    "swish": (9.556e-5, 2.051),
    "hswish": (1.169e-4, 3.042),
    "gelu": (1.982e-4, 3.832),
    "softplus": (9.736e-3, 2.953),
    "neg": (3.384e-4, 2.565),
    "mul": (7.049e-5, 1.965),
    "max": (8.203e-5, 5.817),
}

#: The platforms by key.
PLATFORMS = {
    platform.key: platform
    for platform in (
        Platform(
            key="npu3700",
            name="Keem Bay",
            files=("vpu_2_0.vpunn",),
            descriptors=(10,),
            tiles=4,
            dpus=5,
            shaves=4,
            dpu_mhz=700,
            cmx_mhz=700,
            ddr_mbps=20_000,
            ddr_ns=0,
            cmx_bytes=16,
        ),
        Platform(
            key="npu3720",
            name="Meteor Lake",
            files=("vpu_2_7.vpunn",),
            descriptors=(11,),
            tiles=2,
            dpus=1,
            shaves=2,
            dpu_mhz=1300,
            cmx_mhz=975,
            ddr_mbps=27_000,
            ddr_ns=956,
            cmx_bytes=16,
            modes=_MODES,
            shave=_SHAVE_27,
        ),
        Platform(
            key="npu4000",
            name="Lunar Lake",
            files=("vpu_4_0.vpunn", "vpu_4_1.vpunn"),
            descriptors=(4011, 4111),
            tiles=6,
            dpus=1,
            shaves=2,
            dpu_mhz=1700,
            cmx_mhz=975,
            ddr_mbps=45_000,
            ddr_ns=956,
            cmx_bytes=32,
            modes=_MODES,
            shave=_SHAVE_40,
        ),
        Platform(
            key="npu5010",
            name="Panther Lake",
            files=("vpu_5_1.vpunn", "vpu_5_1_5114.vpunn"),
            descriptors=(5114,),
            tiles=3,
            dpus=1,
            shaves=2,
            dpu_mhz=1950,
            cmx_mhz=1114,
            ddr_mbps=136_000,
            ddr_ns=300,
            cmx_bytes=32,
            modes={**_MODES, "CM_CONVOLUTION": _CUBOIDS, "ELTWISE_MUL": ("CUBOID_8x16",)},
            mixed_chunks=True,
            shave=_SHAVE_40,
        ),
    )
}


def get_platform(key: str) -> Platform:
    """The platform of a key, such as ``npu4000``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if key not in PLATFORMS:
        raise ConfigError(f"the cost model has no platform {key!r}; it has {', '.join(PLATFORMS)}")
    return PLATFORMS[key]
