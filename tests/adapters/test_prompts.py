"""Prompt learning: virtual tokens before the sequence, or keys and values in a cache."""

from pathlib import Path

import pytest
import torch

import hiddenkey
from adapters.every import NOISE, adapted, method_of, peft_may_warn, two_passes
from hiddenkey import Consistency, Drop, DropoutConfig
from models import CACHE, assert_same_gradients, batch, gradients, seeded

PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE")
IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")
BASES = {"llama": "causal", "bert": "classification"}
VIRTUAL = 3


def config(**settings) -> DropoutConfig:
    return DropoutConfig(NOISE.drops, Consistency(**settings))


def padded(base: str, padding: str = "left") -> dict[str, torch.Tensor]:
    return batch(BASES[base], padding)


@pytest.mark.parametrize("settings", [{}, {"backward": "both"}, {"kind": "js"}], ids=str)
@pytest.mark.parametrize("padding", ["left", "right", "none"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", PROMPTS)
def test_the_consistency_loss_with_padding(name, base, padding, settings, tmp_path: Path):
    inputs = padded(base, padding)
    by_hand = adapted(name, base, tmp_path)
    both = settings.get("backward") == "both"
    expected = two_passes(by_hand, inputs, settings.get("kind", "kl"), both=both)
    expected.backward()
    model = adapted(name, base, tmp_path)
    with hiddenkey.attach(model, config(**settings)), seeded(0):
        loss = model(**inputs).loss
        loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients(model), gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize("name", PROMPTS)
def test_both_forms_of_a_language_models_loss(name, lm_loss, tmp_path: Path):
    inputs = padded("llama")
    expected = two_passes(adapted(name, "llama", tmp_path), inputs)
    model = adapted(name, "llama", tmp_path)
    attachment = hiddenkey.attach(model, config(), lm_loss=lm_loss)
    with seeded(0):
        loss = model(**inputs).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert ("chunked" in str(attachment)) == (lm_loss == "chunked")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", PROMPTS)
def test_a_part_of_the_batch_is_compared_on_average_as_the_whole(name, base, tmp_path: Path):
    inputs, found = padded(base), {}
    model = adapted(name, base, tmp_path)
    for fraction in (0.5, 1.0):
        attachment = hiddenkey.attach(model, config(fraction=fraction))
        losses = []
        for seed in range(40):
            with seeded(seed):
                model(**inputs).loss.backward()
            losses.append(attachment.losses["consistency"])
        found[fraction] = torch.tensor(losses)
    error = (found[0.5].var() / 40 + found[1.0].var() / 40).sqrt()
    assert abs(found[0.5].mean() - found[1.0].mean()) < 4 * error


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", IN_CACHE)
def test_the_cache_of_the_trained_pass_holds_prefix_and_batch_once(name, base, tmp_path: Path):
    """The first layer's keys are as many as virtual and real tokens, in both passes."""
    model = adapted(name, base, tmp_path)
    seen = []
    layer = model.get_base_model().get_submodule(
        "model.layers.0.self_attn" if base == "llama" else "bert.encoder.layer.0.attention.self"
    )

    def keep(module, args, kwargs) -> None:
        seen.append((kwargs.get(CACHE) or args[-1]).get_seq_length())

    layer.register_forward_pre_hook(keep, with_kwargs=True)
    hiddenkey.attach(model, config())
    model(**padded(base))
    assert seen == [VIRTUAL, VIRTUAL]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", PROMPTS)
def test_spans_and_shares_are_those_of_the_visible_tokens(name, base, padding, tmp_path: Path):
    """A span pattern drops round(p · visible) tokens of each sequence, and no padding."""
    model, inputs = adapted(name, base, tmp_path), padded(base, padding)
    lengths = inputs["attention_mask"].sum(-1)
    if name not in IN_CACHE:
        lengths = lengths + VIRTUAL
    attachment = hiddenkey.attach(model, DropoutConfig((Drop("hidden", "span", 0.4),)))
    dropped = []
    dense = model.get_base_model().get_submodule(attachment.sites[0].name)
    dense.register_forward_hook(lambda *_: dropped.append((_[2] == 0).all(-1)))
    model(**inputs)
    visible = inputs["attention_mask"].bool()
    if name not in IN_CACHE:
        visible = torch.nn.functional.pad(visible, (VIRTUAL, 0), value=True)
    assert not (dropped[0] & ~visible).any()
    counts = dropped[0].sum(-1)
    assert ((counts - 0.4 * lengths).abs() <= 1).all()
    share = counts.sum().item() / lengths.sum().item()
    assert attachment.shares()["hidden/0"] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("kernel", ["fused", "reference"])
def test_without_a_mask_nothing_changes_at_rate_zero(name, base, kernel, tmp_path: Path):
    """Keys in a cache come before the queries, whose order still counts."""
    model, inputs = adapted(name, base, tmp_path), padded(base, "none")
    del inputs["attention_mask"]
    expected = model.eval()(**inputs).loss
    drops = tuple(Drop(drop.position, drop.pattern, 1e-12) for drop in NOISE.drops)
    with hiddenkey.attach(model.train(), DropoutConfig(drops), kernel=kernel):
        torch.testing.assert_close(model(**inputs).loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PROMPTS)
def test_an_adapter_that_is_switched_off(name, tmp_path: Path):
    """Then PEFT goes past the model's own call; noise acts, and evaluation is as without."""
    model, inputs = adapted(name, "llama", tmp_path), padded("llama")
    base = model.get_base_model()
    expected = base.eval()(**inputs).logits
    hiddenkey.attach(model.train(), NOISE)
    with model.disable_adapter(), torch.no_grad():
        noisy = model(**inputs).logits
        model.eval()
        assert torch.equal(model(**inputs).logits, expected)
    assert not torch.allclose(noisy, expected)


def test_versions_that_do_not_fit_are_named(tmp_path: Path, monkeypatch):
    """Transformers 5.24 renamed what PEFT 0.21's prefix tuning looks for in a classifier."""
    with peft_may_warn():
        model = method_of("PREFIX_TUNING", "bert").build("bert", tmp_path)
    body = model.get_base_model().bert

    def forward(input_ids=None, attention_mask=None, cache=None, **more):
        raise AssertionError("the model was called")

    monkeypatch.setattr(body, "forward", forward)
    with pytest.raises(
        hiddenkey.AttachError, match=r"prefix tuning of PEFT .*'transformers<5\.24'"
    ):
        hiddenkey.attach(model, NOISE)
