"""Every module can be imported on any operating system: none needs what only some of them have."""

import json
import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
PROBE = """
import builtins, importlib, json, pkgutil, sys

package_name = sys.argv[1]
UNIX_ALONE = {"fcntl", "grp", "pwd", "resource", "termios"}
import_anything = builtins.__import__


def import_portable(name, globals=None, *rest, **more):
    # other libraries find what their own system has; they may not be hindered
    importer = (globals or {}).get("__name__", "").partition(".")[0]
    if importer == package_name and name.partition(".")[0] in UNIX_ALONE:
        raise ModuleNotFoundError(f"{name} is not on every system", name=name)
    return import_anything(name, globals, *rest, **more)


builtins.__import__ = import_portable
package = importlib.import_module(package_name)
names, failed = [package_name], {}
for module in pkgutil.walk_packages(package.__path__, f"{package_name}.", onerror=failed.update):
    names.append(module.name)
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
print(json.dumps([names, failed]))
"""


def import_all(package, folder):
    """The modules of a package in a fresh process, and those that could not be imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, package],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_module_needs_a_unix_system_to_be_imported():
    names, failed = import_all("hiddenkey", SRC)
    hook = SRC / "hiddenkey" / "launch" / "hook"  # no package: Python finds its file by the path
    modules = (path for path in SRC.rglob("*.py") if path.parent != hook)
    files = (path.relative_to(SRC).with_suffix("") for path in modules)
    assert set(names) == {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert failed == {}


def test_the_probe_sees_a_module_that_needs_one(tmp_path):
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "portable.py").write_text("import os, subprocess, tempfile")
    (package / "bound.py").write_text("import fcntl")
    (package / "nested.py").write_text("from sample.bound import fcntl")
    names, failed = import_all("sample", tmp_path)
    assert sorted(names) == ["sample", "sample.bound", "sample.nested", "sample.portable"]
    assert failed == dict.fromkeys(
        ("sample.bound", "sample.nested"), "fcntl is not on every system"
    )
