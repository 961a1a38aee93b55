"""What is chosen of a batch for the second forward pass."""

import pytest
import torch

from hiddenkey import ConsistencyError
from hiddenkey.step.arguments import select

CHOSEN = torch.tensor([2, 0])
INPUTS = {
    "input_ids": torch.arange(12).view(4, 3),
    "position_ids": torch.arange(36).view(3, 4, 3),
    "cache_position": torch.arange(3),
    "use_cache": False,
}


def test_sequences_are_chosen_along_the_axis_of_the_batch():
    found = select(INPUTS, CHOSEN)
    assert found["input_ids"].equal(INPUTS["input_ids"][CHOSEN])
    assert found["position_ids"].equal(INPUTS["position_ids"][:, CHOSEN])
    assert found["cache_position"] is INPUTS["cache_position"]
    assert found["use_cache"] is False
    assert select(INPUTS, None) == INPUTS


def test_three_sequences_are_not_taken_for_the_three_axes_of_their_positions():
    """Qwen2-VL numbers time, height and width apart."""
    inputs = {
        "input_ids": torch.arange(15).view(3, 5),
        "position_ids": torch.arange(45).view(3, 3, 5),
    }
    found = select(inputs, CHOSEN)["position_ids"]
    assert found.equal(inputs["position_ids"][:, CHOSEN])


def test_images_that_are_not_laid_out_by_sequences_are_refused():
    """Qwen2-VL takes the patches of all images in one row."""
    patches = {"pixel_values": torch.ones(40, 8), "image_grid_thw": torch.ones(4, 3)}
    assert select({**INPUTS, **patches}, None)["pixel_values"].shape == (40, 8)
    with pytest.raises(ConsistencyError, match=r"pixel_values of shape \[40, 8\] .*fraction=1"):
        select({**INPUTS, **patches}, CHOSEN)
    by_sequence = {"pixel_values": torch.rand(4, 3, 8, 8)}
    found = select({**INPUTS, **by_sequence}, CHOSEN)["pixel_values"]
    assert found.equal(by_sequence["pixel_values"][CHOSEN])
