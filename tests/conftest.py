"""Settings shared by all tests."""

import gc
import inspect
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from packaging.version import Version
from transformers import BertModel

from hiddenkey.errors import AttachError, ConfigError

ALONE = (
    "crash",
    "lab/compare/test_command.py",
    "lab/compare/test_postgres.py",
    "lab/compare/test_processes.py",
    "lab/run/test_processes.py",
    "maintenance/test_trial.py",
    "parallel",
)
"""Tests of several processes with time limits: no more than two of these files run at a time."""

# PEFT before 0.22 looks for past_key_values, which transformers 5.24 renamed
DO_NOT_FIT = "cache" in inspect.signature(BertModel.forward).parameters and Version(
    version("peft")
) < Version("0.22")

settings.register_profile(
    "hiddenkey", deadline=None, derandomize=True, database=None, max_examples=40
)
settings.load_profile("hiddenkey")

# tiny tensors: two threads wait for each other longer than they work
torch.set_num_threads(1)


# A shell's background job ignores Ctrl-C, and hands that on to the commands that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    places = [Path(__file__).parent / place for place in ALONE]
    assert all(place.exists() for place in places), "a test that runs alone has moved"
    for item in items:
        if any(item.path == place or place in item.path.parents for place in places):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="module", autouse=True)
def _collect_only_what_is_new():
    """Trainer collects garbage after each training; all imported libraries would slow that down."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip what cannot run where installed versions of PEFT and transformers do not fit."""
    try:
        return (yield)
    except (AttachError, ConfigError) as refusal:
        if DO_NOT_FIT and "does not fit transformers" in str(refusal):
            pytest.skip(str(refusal))
        raise


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(20240301)
    torch.set_num_threads(1)  # a command that ran in this process may have set its own number
