"""Settings shared by all tests."""

import pytest
import torch
from hypothesis import settings

settings.register_profile(
    "hiddenkey", deadline=None, derandomize=True, database=None, max_examples=40
)
settings.load_profile("hiddenkey")

# tiny tensors: two threads wait for each other longer than they work
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(20240301)
