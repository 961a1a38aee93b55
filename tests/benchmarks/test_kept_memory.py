"""The sizes that kept_memory.py tells, against what they are by their definition."""

import pytest
import torch

import kept_memory
from models import lora_model


def test_a_mean_is_one_copy_of_what_is_trained_and_two_while_it_is_evaluated():
    model = lora_model("bert", "classification").to(torch.bfloat16)
    found = kept_memory.adapter_and_means(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found["adapter"] == found["mean"] == 4 * trained
    both = found["mean and last weights, in an evaluation"]
    assert both == (4 + 2) * trained, "the last weights stay in their own type"


@pytest.mark.parametrize(
    ("units", "width", "classes", "row"), [(1, 2, 0, 4 * 2), (5, 17, 16, 4 * 17 + 4 * 16)]
)
def test_a_store_takes_a_row_for_each_unit_and_at_most_twice_as_many(units, width, classes, row):
    found = kept_memory.store(300, units, width, classes)
    assert found["rows"] == 300 * units * row
    assert found["rows"] <= found["capacity"] < 2 * found["rows"] + 256 * row
    assert found["tables"] > 300 * 3 * 8, "three tables by example"
