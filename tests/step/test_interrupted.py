"""Ctrl-C runs no hooks: what a pass put on the model and the generators goes anyway."""

import pytest
import torch

import hiddenkey
from models import batch, lora_model, transformer_in


def interrupt(model, calls=1):
    """Press Ctrl-C in front of the classifier, in the call of it with that number."""
    left = [calls]

    def stop(*_):
        left[0] -= 1
        if not left[0]:
            handle.remove()
            raise KeyboardInterrupt

    handle = transformer_in(model).classifier.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model(**batch())


def seeded_pass(model):
    torch.manual_seed(0)
    return model(**batch()).loss.item(), torch.rand(1).item()


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_seed_that_is_set_after_it_counts(rank):
    model = lora_model("bert")
    hiddenkey.attach(model, "hiddenkey-minus", data_parallel_rank=rank)
    expected = seeded_pass(model)
    interrupt(model)
    assert seeded_pass(model) == expected


@pytest.mark.parametrize("rank", [None, 0])
def test_the_next_pass_puts_back_the_generator_that_nobody_seeded(rank):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey-minus", data_parallel_rank=rank)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model(**batch())
    following = torch.rand(1)
    torch.set_rng_state(state)
    interrupt(model)
    attachment.leave_pass()
    attachment.leave_pass()
    assert torch.initial_seed() == 5
    if rank is not None:  # one number went, as with a pass that ended
        assert torch.equal(torch.rand(1), following)


def test_a_second_forward_pass_leaves_nothing_by_itself():
    model = lora_model("bert")
    hiddenkey.attach(model, "hiddenkey", data_parallel_rank=0)
    torch.manual_seed(5)
    interrupt(model, calls=1)  # the first call is the second pass's
    assert torch.initial_seed() == 5
    torch.manual_seed(5)
    interrupt(model, calls=2)
    assert torch.initial_seed() != 5, "this one went through the first forward pass"


def test_a_detached_attachment_has_no_pass_to_leave():
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey")
    attachment.detach()
    attachment.leave_pass()
