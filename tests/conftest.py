"""Settings shared by all tests."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

ALONE = (
    "lab/claims/test_command.py",
    "lab/comparison/test_command.py",
    "lab/comparison/test_postgres.py",
    "lab/comparison/test_processes.py",
    "lab/report/test_large.py",
    "lab/test_processes.py",
    "lab/test_smollm2.py",
    "maintenance/test_trial.py",
    "packaging",
    "parallel",
)
"""Tests of several processes with time limits, or of time and memory: nothing runs beside them."""

settings.register_profile(
    "hiddenkey", deadline=None, derandomize=True, database=None, max_examples=40
)
settings.load_profile("hiddenkey")

# tiny tensors: two threads wait for each other longer than they work
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    places = [Path(__file__).parent / place for place in ALONE]
    for item in items:
        if any(item.path == place or place in item.path.parents for place in places):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(20240301)
    torch.set_num_threads(1)  # a command that ran in this process may have set its own number
