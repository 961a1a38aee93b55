"""``import hiddenkey`` brings in nothing that the user did not ask for."""

import json
import os
import subprocess
import sys

PROBE = """
import json, sys
import torch
before = set(sys.modules)
import hiddenkey
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def new_modules(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_importing_the_library_imports_nothing_but_torch():
    new = new_modules(PROBE)
    assert "hiddenkey" in new
    assert new - set(sys.stdlib_module_names) == {"hiddenkey"}


def test_the_probe_sees_an_extra_where_there_is_one():
    new = new_modules(PROBE.replace("import hiddenkey", "import hiddenkey, yaml"))
    assert new - set(sys.stdlib_module_names) > {"hiddenkey", "yaml"}
