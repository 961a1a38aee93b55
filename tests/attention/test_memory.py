"""The fused path never allocates an attention map ``[batch, heads, queries, keys]``."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hiddenkey
import models
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention.site import AttentionSite
from hiddenkey.measure import ShareCounter
from models import FAMILIES, lora_model

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 83, 8
MAP = BATCH * HEADS * LENGTH * LENGTH  # far more than any other tensor has


class Allocations(TorchDispatchMode):
    """Remembers the largest storage, in elements, behind any result of an operation.

    The storage and not the shape: a mask that is expanded with stride 0 takes no memory.
    """

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor):
                elements = result.untyped_storage().nbytes() // result.element_size()
                self.largest = max(self.largest, elements)
        return results


def largest_allocations(drop, *, is_fused, causal, form, dtype):
    """Return the largest storage of the forward pass and that of the backward pass."""
    site = AttentionSite(
        logits=drop if drop.position == "attention_logits" else None,
        weights=drop if drop.position == "attention_weights" else None,
        config=DropoutConfig((drop,)),
        is_fused=is_fused,
        counting=lambda: True,
        counters={drop.position: ShareCounter()},
    )
    query = torch.randn(BATCH, HEADS, LENGTH, WIDTH).to(dtype).requires_grad_()
    key = torch.randn(BATCH, 1, LENGTH, WIDTH).to(dtype).requires_grad_()
    value = torch.randn(BATCH, 1, LENGTH, WIDTH).to(dtype).requires_grad_()
    visible = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
    visible[1, ..., -9:] = False
    mask = {
        "none": None,
        "stride 0": visible.expand(-1, -1, LENGTH, -1),
        "boolean": visible & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
    }[form]
    with Allocations() as forward:
        output = site.attend(
            query,
            key,
            value,
            mask,
            is_causal=causal,
            mask_implies_causal=True,
            scaling=0.3,
            dropout=0.0,
        )
        loss = output.float().square().sum()
    with Allocations() as backward:
        torch.autograd.grad(loss, (query, key, value))
    return forward.largest, backward.largest


FORMS = pytest.mark.parametrize(
    ("causal", "form"),
    [(False, "none"), (True, "none"), (False, "stride 0"), (True, "boolean")],
)
DROPS = pytest.mark.parametrize(
    "drop",
    [
        Drop("attention_logits", "column", 0.2),
        Drop("attention_logits", "span", 0.2),
        Drop("attention_weights", "column", 0.2),
        Drop("attention_weights", "span", 0.2, "normalised-with-gradient"),
    ],
    ids=lambda drop: f"{drop.position}-{drop.pattern}",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@FORMS
@DROPS
def test_fused_allocates_no_attention_map(drop, causal, form, dtype):
    largest = largest_allocations(drop, is_fused=True, causal=causal, form=form, dtype=dtype)
    assert max(largest) < MAP


@FORMS
@DROPS
def test_the_specification_does_and_the_test_sees_it(drop, causal, form):
    forward, backward = largest_allocations(
        drop, is_fused=False, causal=causal, form=form, dtype=torch.float32
    )
    assert forward >= MAP
    assert backward >= MAP


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["dropkey", "dropkey-span", "dropattention", "hiddenkey-minus"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_trains_without_an_attention_map(family, name, attention, padding):
    """Every layer, forward and backward; ``[batch, 1, queries, keys]`` is the model's own mask."""
    batch_size, tokens = 3, 40
    attention_map = batch_size * models.HEADS * tokens * tokens
    model = lora_model(family, attention=attention)
    hiddenkey.attach(model, name)
    inputs = models.batch(padding=padding, size=batch_size, tokens=tokens)
    with Allocations() as largest:
        model(**inputs).loss.backward()
    assert largest.largest < attention_map
