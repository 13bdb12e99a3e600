"""Compiles a model for an Intel NPU with OpenVINO: ``python -m hwnas.profilers.npu_compile MODEL PLATFORM``.

A program of its own because the compiler writes its schedule trace into the current folder, and may crash or hang.
It is for systems whose OpenVINO carries the compiler; ``npu_compile.c`` is the same for Wine.
"""

from __future__ import annotations

import sys

__all__ = ["NO_COMPILER", "REFUSED", "main"]

#: how the program ends if the compiler cannot be started, or refuses the model; the reason is printed
NO_COMPILER, REFUSED = 3, 4


def main(model: str, platform: str) -> int:
    """Compile the file `model` for `platform`, such as ``NPU4000``; 0, `NO_COMPILER` or `REFUSED`."""
    import openvino

    core = openvino.Core()
    try:
        print("compiler", core.get_property("NPU", "NPU_COMPILER_VERSION"))
    except RuntimeError as error:
        print(error)
        return NO_COMPILER
    settings = {
        "NPU_PLATFORM": platform,
        "NPU_COMPILER_TYPE": "PLUGIN",
        "NPU_COMPILATION_MODE_PARAMS": "enable-schedule-trace=true",
    }
    try:
        core.compile_model(core.read_model(model), "NPU", settings)
    except RuntimeError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
