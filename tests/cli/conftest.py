import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small models only lose time to threads, and tests may run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
