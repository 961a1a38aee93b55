import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """The tensors here are so small that handing them to threads takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
