"""Building the Hexagon kernels with zig, and running them one operator at a time in qemu-hexagon.

The program (``hexagon/*.c``) reads an operator's job and data from its standard input, runs the kernel once and writes
QEMU's own counters of packets, instructions and HVX instructions, then the output. It is built once a process. A
plug-in of QEMU (``hexagon_cache.c``) models a cache, and says how often the kernel missed it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from hwnas.spaces.errors import DeviceUnavailable, ModelError

__all__ = ["SOURCES", "Cache", "Counts", "Program", "kernels", "missing", "versions"]

SOURCES = Path(__file__).parent / "hexagon"
PLUGIN = Path(__file__).parent / "hexagon_cache.c"
#: logarithm of the bytes of a cache's line
LINE = 6
#: one architecture for all: the newest that Debian 12's QEMU runs, with vectors of 128 bytes
CPU, FLAGS = "v67", (
    *("-target", "hexagon-linux-musl", "-mcpu=hexagonv67+hvxv67+hvx_length128b", "-O2", "-g0"),
    *("-std=c11", "-ffreestanding", "-nostdlib", "-fno-sanitize=all", "-fno-unroll-loops", "-fno-vectorize"),
)  # fmt: skip
MAGIC = 0x48584B31
BLOBS, COUNTERS = 5, 3
_BUILD_S, _RUN_S = 300, 120
#: of one array that a kernel reads or writes; the program has room for three of them
MAX_BYTES = 192 << 20
_MISSES = re.compile(rb"^misses (\d+)$", re.M)
#: what the program's exit statuses mean
_ENDS = {2: "read another program's job", 3: "got too little input", 5: "ran out of memory", 6: "has no such kernel"}


@dataclass(frozen=True)
class Counts:
    """What QEMU counted while one operator ran.

    Attributes
    ----------
    packets
        Packets: up to four instructions that a thread issues in one cycle at best.
    instructions, hvx
        Instructions, and those of them for the vector unit.
    misses
        Lines of 64 bytes that were not in the modelled cache; None if there is none.
    """

    packets: int
    instructions: int
    hvx: int
    misses: int | None = None


@dataclass(frozen=True)
class Cache:
    """A cache of lines of 64 bytes, of which the least recently used is replaced; empty when a kernel begins.

    Attributes
    ----------
    kilobytes
        Its size.
    ways
        Lines that an address can be in.
    """

    kilobytes: int
    ways: int = 16

    @property
    def sets(self) -> int:
        """Places of an address, each of `ways` lines."""
        return max(1, (self.kilobytes << 10 >> LINE) // self.ways)


def missing() -> str | None:
    """None if kernels can be built and run here; else one sentence saying what to install."""
    try:
        version("ziglang")
    except PackageNotFoundError:
        return "zig, which compiles for Hexagon, is not installed; install it with: pip install 'hwnas[hexagon]'"
    if shutil.which("qemu-hexagon") is None:
        return "qemu-hexagon is not installed; on Debian or Ubuntu install it with: apt install qemu-user"
    return None


@lru_cache(maxsize=1)
def versions() -> str:
    """All that moves counts: the versions of zig and QEMU, and a digest of the kernels' source."""
    if reason := missing():
        raise DeviceUnavailable(reason)
    said = _call(["qemu-hexagon", "--version"], 10, "qemu-hexagon").stdout.decode(errors="replace")
    found = re.search(r"version (\d[\w.]*)", said)
    digest = hashlib.sha256()
    for file in sorted(SOURCES.glob("*.[ch]")):
        digest.update(file.read_bytes())
    return (
        f"zig {version('ziglang')}, qemu {found[1] if found else 'of unknown version'}, "
        f"kernels {digest.hexdigest()[:8]}"
    )


class Program:
    """The kernels as one program for Hexagon v67.

    Parameters
    ----------
    sources
        C files to build; by default the kernels that come with hwnas.
    flags
        More options for the compiler.
    cache
        What to count misses of.

    Raises
    ------
    DeviceUnavailable
        If zig or QEMU is missing, or the kernels cannot be built.
    """

    def __init__(
        self,
        sources: Sequence[Path] = (SOURCES / "main.c", SOURCES / "kernels.c"),
        flags: Sequence[str] = (),
        cache: Cache | None = None,
    ) -> None:
        if reason := missing():
            raise DeviceUnavailable(reason)
        folder = Path(tempfile.mkdtemp(prefix="hwnas-hexagon-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.cache = cache
        self._file = folder / "kernels.elf"
        _build(self._file, [*FLAGS, *flags, f"-I{SOURCES}", *map(str, sources)], "the Hexagon kernels")
        self._plugin: list[str] = []
        if cache:
            self._plugin = ["-plugin", f"{_plugin()},sets={cache.sets},ways={cache.ways},line={LINE}"]
        shutil.rmtree(folder / "cache", ignore_errors=True)

    def run(self, job: Sequence[int], blobs: Sequence[bytes], output: int) -> tuple[Counts, np.ndarray]:
        """Run one operator.

        Parameters
        ----------
        job
            The numbers of ``Job`` in ``hexagon/runtime.h``.
        blobs
            Up to five arrays, in the order of ``Data`` there.
        output
            Bytes that it writes.

        Returns
        -------
        tuple
            The counts, and the output as unsigned bytes.

        Raises
        ------
        ModelError
            If an array is too large, or the kernel fails or does not end in time.
        """
        parts = [*blobs, *[b""] * (BLOBS - len(blobs))]
        if max(output, *(len(part) for part in parts)) > MAX_BYTES:
            raise ModelError(f"an operator has an array of more than {MAX_BYTES >> 20} MB, too large to simulate")
        head = struct.pack(f"<{2 + BLOBS}I", MAGIC, *(len(part) for part in parts), output)
        command = ["qemu-hexagon", "-cpu", CPU, *self._plugin, str(self._file)]
        done = _call(
            command, _RUN_S, "qemu-hexagon", given=b"".join([head, struct.pack(f"<{len(job)}i", *job), *parts])
        )
        said, counted = done.stdout, 4 * COUNTERS
        if done.returncode or len(said) != counted + output:
            reason = _ENDS.get(done.returncode) or f"ended with status {done.returncode} {_last_line(done.stderr)}"
            raise ModelError(f"a Hexagon kernel {reason.strip()}; its job was {list(job)}")
        packets, instructions, hvx = struct.unpack_from(f"<{COUNTERS}I", said)
        counts = Counts(packets, instructions, hvx, self._misses(done.stderr))
        return counts, np.frombuffer(said, np.uint8, output, counted)

    def _misses(self, said: bytes) -> int | None:
        """What the plug-in wrote, if there is one."""
        if not self._plugin:
            return None
        if (found := _MISSES.search(said)) is None:
            raise DeviceUnavailable(
                "qemu-hexagon did not take the plug-in that models a cache; it is written for QEMU 7, with plug-ins"
            )
        return int(found[1])


@lru_cache(maxsize=4)
def kernels(cache: Cache | None = None) -> Program:
    """The kernels that come with hwnas, built when they are first needed."""
    return Program(cache=cache)


@lru_cache(maxsize=1)
def _plugin() -> Path:
    """The plug-in, which is built when it is first needed."""
    folder = Path(tempfile.mkdtemp(prefix="hwnas-hexagon-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _build(folder / "cache.so", ["-shared", "-fPIC", "-O2", str(PLUGIN)], "the model of a cache")
    return folder / "cache.so"


def _build(target: Path, options: list[str], what: str) -> None:
    """Compile with zig."""
    # zig's caches go with the folder: it would fill the user's own with objects of no further use
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(target.parent / "cache"))
    command = [sys.executable, "-m", "ziglang", "cc", "-o", str(target), *options]
    built = _call(command, _BUILD_S, "zig", environment={**os.environ, **caches})
    if built.returncode or not target.is_file():
        raise DeviceUnavailable(f"zig cannot build {what}: {_last_line(built.stderr)}")


def _call(
    command: list[str], seconds: float, name: str, *, given: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=given, capture_output=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{name} did not end within {seconds:g} s") from error
    except OSError as error:
        raise DeviceUnavailable(f"{name} cannot be started: {error.strerror}; install it anew") from error


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line]
    return (errors or lines or [""])[0][:300]
