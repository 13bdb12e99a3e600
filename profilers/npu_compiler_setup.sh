#!/usr/bin/env bash
# Sets up Intel's NPU compiler on x86-64 Linux: OpenVINO's wheel for Windows under Wine, and a small program that calls
# it. Run it again to go on where it failed; what is there is kept.
#
#   bash npu_compiler_setup.sh [FOLDER]
#
# FOLDER, or the variable HWNAS_NPU_COMPILER, is where it goes; ~/.cache/hwnas/npu-compiler unless told otherwise.
# PYTHON is the interpreter whose pip downloads; python3 unless told otherwise.
set -euo pipefail

openvino=2026.4.1
zig=0.17.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-${HWNAS_NPU_COMPILER:-$HOME/.cache/hwnas/npu-compiler}}
python=${PYTHON:-python3}

say() { echo "npu_compiler_setup: $*"; }
die() { say "$*" >&2; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "this is $(uname -s) on $(uname -m); the compiler needs x86-64 Linux"
"$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip; set PYTHON to an interpreter that has it"
mkdir -p "$folder" || die "cannot make the folder $folder; name another one"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/lock"
flock -n 9 || die "another set-up is working in $folder; wait until it ends"

# 1. Wine. Debian's package wine64 puts nothing into the path.
find_wine() { command -v wine64 || { [ -x /usr/lib/wine/wine64 ] && echo /usr/lib/wine/wine64; } || command -v wine; }
if ! find_wine >/dev/null; then
    install="apt-get install -y --no-install-recommends wine64"
    command -v apt-get >/dev/null || die "there is no Wine; install it with your package manager, then run this again"
    [ "$(id -u)" = 0 ] || die "there is no Wine; run: sudo $install; then run this again"
    say "installing Wine"
    DEBIAN_FRONTEND=noninteractive $install || die "$install failed; run apt-get update and this again"
fi
wine=$(find_wine) || die "Wine was installed but is not found; add it to PATH"

# 2. OpenVINO for Windows.
if [ ! -f "$folder/openvino-$openvino.dist-info/METADATA" ]; then
    say "downloading OpenVINO $openvino for Windows (85 MB)"
    rm -rf "$folder/download" "$folder/openvino" "$folder"/openvino-*.dist-info "$folder/ready.json"
    "$python" -m pip download -q --no-deps --only-binary=:all: --platform win_amd64 --implementation cp \
        --python-version 3.11 -d "$folder/download" "openvino==$openvino" || die "pip cannot download openvino==$openvino"
    "$python" -m zipfile -e "$folder"/download/openvino-*.whl "$folder/download" || die "the wheel of OpenVINO is damaged"
    mv "$folder/download/openvino" "$folder/openvino"
    mv "$folder/download/openvino-$openvino.dist-info" "$folder/" # last: it marks this step as done
    rm -rf "$folder/download"
fi

# 3. The program, built by the C compiler of Zig, which comes from PyPI and is removed again.
program=$folder/openvino/libs/npu_compile.exe
if [ ! -f "$program" ] || ! cmp -s "$here/npu_compile.c" "$folder/npu_compile.c"; then
    say "building npu_compile.exe (downloads 100 MB, takes minutes)"
    rm -rf "$folder/zig" "$folder/ready.json"
    "$python" -m pip install -q --no-deps --target "$folder/zig" "ziglang==$zig" || die "pip cannot install ziglang==$zig"
    ZIG_GLOBAL_CACHE_DIR=$folder/zig/cache ZIG_LOCAL_CACHE_DIR=$folder/zig/cache "$folder/zig/ziglang/zig" cc \
        -target x86_64-windows-gnu -O2 -o "$program" "$here/npu_compile.c" "$folder/openvino/libs/openvino_c.lib" \
        || die "npu_compile.c cannot be built"
    cp "$here/npu_compile.c" "$folder/npu_compile.c" # the source that the program is of
    rm -rf "$folder/zig"
fi

# 4. Wine's own folder, and a first start. Wine's server stays a while, with what is open: no pipe, and not the lock.
export WINEPREFIX=$folder/wine WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=;winemenubuilder.exe=" DISPLAY=
in_wine() { timeout 300 "$wine" "$@" >"$folder/log" 2>&1 </dev/null 9>&-; }
if [ ! -f "$folder/ready.json" ]; then
    say "setting up Wine (700 MB)"
    in_wine wineboot -i || die "Wine cannot start; see $folder/log"
    in_wine "$program" || die "the compiler cannot start; see $folder/log"
    grep -q "^compiler" "$folder/log" || die "the compiler does not answer; see $folder/log"
    printf '{"openvino": "%s", "wine": "%s"}\n' "$openvino" "$wine" >"$folder/ready.part"
    mv "$folder/ready.part" "$folder/ready.json"
fi
say "the compiler of OpenVINO $openvino is ready in $folder"
[ "$folder" = "$HOME/.cache/hwnas/npu-compiler" ] || say "tell hwnas: export HWNAS_NPU_COMPILER='$folder'"
