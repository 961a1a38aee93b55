"""``import hiddenkey`` brings in nothing that the user did not ask for."""

import json
import os
import subprocess
import sys

import pytest

import hiddenkey

PROBE = """
import json, sys
{before}
loaded = set(sys.modules)
import hiddenkey
{after}
print(json.dumps(sorted({{name.split(".")[0] for name in set(sys.modules) - loaded}})))
"""
EVERY_NAME = "for name in hiddenkey.__all__: getattr(hiddenkey, name)"


def new_modules(before="", after=""):
    """Return what ``import hiddenkey`` and ``after`` load in a fresh process, stdlib aside."""
    code = PROBE.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout)) - set(sys.stdlib_module_names)


def test_the_import_alone_loads_nothing_else():
    assert new_modules() == {"hiddenkey"}


def test_all_public_names_need_nothing_but_torch():
    assert new_modules("import torch", EVERY_NAME) == {"hiddenkey"}


def test_all_public_names_leave_the_compiler_alone():
    """Importing it takes longer than importing PyTorch."""
    code = f"import torch, hiddenkey, sys\n{EVERY_NAME}\nprint('torch._dynamo' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"False\n"


def test_the_probe_sees_an_extra_where_there_is_one():
    assert new_modules("import torch", "import yaml") > {"hiddenkey", "yaml"}


def test_public_names_are_listed_and_others_are_refused():
    assert set(hiddenkey.__all__) <= set(dir(hiddenkey))
    with pytest.raises(AttributeError, match="module 'hiddenkey' has no attribute 'attahc'"):
        hiddenkey.attahc  # noqa: B018 - the access is what is tested
