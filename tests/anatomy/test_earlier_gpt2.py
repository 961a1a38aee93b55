"""The GPT-2 of LoRA's first code, whose Conv1D knows its outputs alone."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import hiddenkey
from hiddenkey.anatomy.part import linear_shape
from models import batch, plain_model, step


class EarlierConv1D(nn.Module):
    """As in OpenAI's port, microsoft/LoRA and nanoGPT's ancestors: ``nf``, and no ``nx``."""

    def __init__(self, other: Conv1D) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = other.nf, other.weight, other.bias

    def forward(self, states):
        flat = torch.addmm(self.bias, states.view(-1, states.size(-1)), self.weight)
        return flat.view(*states.size()[:-1], self.nf)


def earlier(model):
    for part in [each for each in model.modules() if not isinstance(each, Conv1D)]:
        for name, child in part.named_children():
            if isinstance(child, Conv1D):
                setattr(part, name, EarlierConv1D(child))
    return model


def test_its_shape_is_read_from_its_weight():
    with torch.device("meta"):
        assert linear_shape(EarlierConv1D(Conv1D(96, 32))) == (32, 96)
        assert linear_shape(nn.LayerNorm(3)) is None


@pytest.mark.parametrize("method", ["hiddenkey-minus", "hiddenkey", "hiddencut"])
def test_it_has_the_noise_of_todays(method):
    today, before = plain_model("gpt2", "causal"), earlier(plain_model("gpt2", "causal"))
    one, other = hiddenkey.attach(today, method), hiddenkey.attach(before, method)
    assert one.sites == other.sites
    inputs = batch("causal")
    assert step(before, inputs, 3)[0] == pytest.approx(step(today, inputs, 3)[0], rel=1e-5)
    assert other.shares() == one.shares()
