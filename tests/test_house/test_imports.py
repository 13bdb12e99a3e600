"""A bare install imports everything, and `import hwnas` or `hwnas --help` imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hwnas

HEAVY = {
    "PIL",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "xgboost",
}

# Hides every installed package that hwnas does not declare as a core dependency, directly or through one.
BARE = """
import importlib.metadata as metadata, json, pkgutil, re, sys
from packaging.requirements import Requirement

core, todo = set(), [("hwnas", "")]
while todo:
    name, extra = todo.pop()
    for line in metadata.requires(name) or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            key = re.sub(r"[-_.]+", "-", need.name).lower()
            if key not in core:
                core.add(key)
                todo += [(need.name, e) for e in ("", *need.extras)]
of = metadata.packages_distributions()
hidden = {
    top for top, dists in of.items()
    if not any(re.sub(r"[-_.]+", "-", d).lower() in core | {"hwnas"} for d in dists)
}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not a core dependency", name=name)

sys.meta_path.insert(0, Hide())
for name in [n for n in sys.modules if n.split(".")[0] in hidden]:
    del sys.modules[name]
import hwnas
found, failed = [], {}
for module in pkgutil.walk_packages(hwnas.__path__, "hwnas.", onerror=lambda name: failed.setdefault(name, "package")):
    if module.name == "hwnas.__main__":
        continue
    try:
        __import__(module.name)
        found.append(module.name)
    except Exception as error:
        failed[module.name] = repr(error)
print(json.dumps({"found": found, "failed": failed, "hidden": sorted(hidden)}))
"""


def python(code: str, cwd: Path) -> str:
    """Standard output of a fresh interpreter, away from the source tree."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_install_imports_every_public_module(tmp_path: Path) -> None:
    result = json.loads(python(BARE, tmp_path))
    assert result["failed"] == {}
    assert {"hwnas.run", "hwnas.cli.app", "hwnas.spaces.graph", "hwnas.profilers", "hwnas.latency_tables"} <= set(
        result["found"]
    )
    assert "pytest" in result["hidden"]


def test_importing_hwnas_imports_nothing_heavy(tmp_path: Path) -> None:
    loaded = json.loads(python("import hwnas, sys, json; print(json.dumps(list(sys.modules)))", tmp_path))
    assert HEAVY & set(loaded) == set()
    assert "numpy" not in loaded


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, json\nfrom hwnas.__main__ import main\nsys.argv = ['hwnas', '--help']\nmain()\n"
    code += "print(json.dumps(list(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "Usage" in done.stdout
    assert HEAVY & set(json.loads(done.stderr)) == set()


def test_verbs_stay_functions_when_modules_of_the_same_name_are_imported(tmp_path: Path) -> None:
    code = "import hwnas\nimport hwnas.report, hwnas.predict, hwnas.search\n"
    python(code + "assert all(callable(f) for f in (hwnas.report, hwnas.predict, hwnas.search))", tmp_path)


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert hwnas.__version__ == version("hwnas")
