"""The device of these tests: a CUDA device where there is one, else the CPU; all are marked."""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.cuda)


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"
