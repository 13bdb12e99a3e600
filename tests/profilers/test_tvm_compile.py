"""Code for other targets: a kernel for 64-bit Arm is run under emulation, and computes what onnxruntime computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hwnas.profilers.tvm_compile import cross_compile, load_tvm, lowered, make_target
from hwnas.spaces import ConfigError
from hwnas.spaces.families import NetworkBuilder

pytest.importorskip("tvm")

ARM = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}'
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
HARNESS = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { int32_t type, number; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } Kind;
typedef struct {
    void *data; Device device; int32_t axes; Kind kind; int64_t *shape, *strides; uint64_t offset;
} Tensor;
typedef struct { int32_t type; uint32_t unused; Tensor *tensor; } Value;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    fprintf(stderr, "%s: ", kind);
    for (int32_t i = 0; i < count; i++) fputs(parts[i] ? parts[i] : "", stderr);
}
static void *reserve(int type, int number, uint64_t bytes, int code, int bits) {
    void *found = NULL;
    return posix_memalign(&found, 64, bytes) ? NULL : found;
}
static int release(int type, int number, void *memory) { free(memory); return 0; }
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = reserve;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
int __tvm_ffi_KERNEL(void *, const Value *, int32_t, Value *);

int main(int count, char **files) {  /* the last file is the result */
    Tensor tensors[] = {TENSORS};
    Value values[sizeof tensors / sizeof *tensors], result = {0};
    int last = count - 2;
    for (int i = 0; i <= last; i++) {
        size_t bytes = 4;
        for (int axis = 0; axis < tensors[i].axes; axis++) bytes *= tensors[i].shape[axis];
        tensors[i].data = reserve(0, 0, bytes, 0, 0);
        if (i < last) {
            FILE *file = fopen(files[i + 1], "rb");
            if (!file || fread(tensors[i].data, 1, bytes, file) != bytes) return 3;
            fclose(file);
        }
        values[i] = (Value){7, 0, &tensors[i]};
    }
    if (__tvm_ffi_KERNEL(NULL, values, last + 1, &result)) return 4;
    size_t numbers = 1;
    for (int axis = 0; axis < tensors[last].axes; axis++) numbers *= tensors[last].shape[axis];
    FILE *file = fopen(files[count - 1], "wb");
    return !file || fwrite(tensors[last].data, 4, numbers, file) != numbers || fclose(file);
}
"""


def test_a_kernel_for_arm_runs_under_emulation(tmp_path: Path) -> None:
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    import onnxruntime
    from onnx import numpy_helper

    net = NetworkBuilder((1, 8, 14, 14))
    model = net.graph(net.conv("input", 16, 3, 1, "relu")).to_onnx()
    data = model.SerializeToString()
    given = np.random.default_rng(1).standard_normal((1, 8, 14, 14), dtype=np.float32)
    expected = onnxruntime.InferenceSession(data).run(None, {model.graph.input[0].name: given})[0]

    made = cross_compile(data, tmp_path / "kernels.o", ARM)
    assert made.read_bytes()[18:20] == b"\xb7\x00"  # the ELF number of 64-bit Arm
    name, shapes = _kernel(data)
    arrays = [given, *(numpy_helper.to_array(tensor) for tensor in model.graph.initializer)]
    by_size = {array.size: array for array in arrays}
    tensors = ", ".join(
        f"{{0, {{1, 0}}, {len(shape)}, {{2, 32, 1}}, (int64_t[]){{{', '.join(map(str, shape))}}}, 0, 0}}"
        for shape in shapes
    )
    (tmp_path / "main.c").write_text(HARNESS.replace("KERNEL", name).replace("TENSORS", tensors), encoding="ascii")
    files = [tmp_path / f"{number}.bin" for number in range(len(shapes))]
    for file, shape in zip(files[:-1], shapes[:-1], strict=True):
        by_size[int(np.prod(shape))].astype(np.float32).tofile(file)
    program = str(tmp_path / "main")
    sources = [str(tmp_path / "main.c"), str(made)]
    subprocess.run([COMPILER, "-O1", "-static", "-o", program, *sources, "-lm"], check=True)
    subprocess.run([EMULATOR, program, *map(str, files)], check=True, timeout=60)
    found = np.fromfile(files[-1], np.float32).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-4


def _kernel(data: bytes) -> tuple[str, list[tuple[int, ...]]]:
    """Name and shapes of the one kernel that computes the model."""
    tvm = load_tvm()
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    module = lowered(data, make_target(ARM))
    found = {place.name_hint: code for place, code in module.functions.items() if isinstance(code, tvm.tirx.PrimFunc)}
    assert len(found) == 1
    name, code = found.popitem()
    return name, [tuple(int(size) for size in part.shape) for part in ArgInfo.from_prim_func(code)]


def test_a_library_for_arm(tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    net = NetworkBuilder((1, 3, 16, 16))
    data = net.classifier(net.conv("input", 16, 3, 2, "relu"), 10).to_onnx(batch="N").SerializeToString()
    made = cross_compile(data, tmp_path / "model.so", ARM, COMPILER)
    assert made.read_bytes()[18:20] == b"\xb7\x00"


def test_mistakes(tmp_path: Path) -> None:
    data = NetworkBuilder((1, 3, 16, 16))
    graph = data.classifier(data.conv("input", 16, 3, 2, "relu"), 10)
    content = graph.to_onnx().SerializeToString()
    with pytest.raises(ConfigError, match="is not JSON"):
        make_target("aarch64")
    with pytest.raises(ConfigError, match="not one of LLVM"):
        make_target('{"kind": "cuda"}')
    with pytest.raises(ConfigError, match="no linker 'nothing-g"):
        cross_compile(content, tmp_path / "model.so", ARM, "nothing-g++")
    with pytest.raises(ConfigError, match="cannot link"):
        cross_compile(content, tmp_path / "model.so", ARM, "false")
