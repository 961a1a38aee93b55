"""Which units fall: never padding, by head and layer as configured, as many as the rate says."""

import pytest
import torch

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention import site
from hiddenkey.framework.patterns import PATTERNS, span
from models import (
    ATTENTIONS,
    DECODERS,
    ENCODERS,
    FAMILIES,
    LAYER_STACK,
    batch,
    lora_model,
    plain_model,
    run,
    seeded,
    step,
)


def drop_only(position: str, pattern: str, rate: float, **settings) -> DropoutConfig:
    return DropoutConfig((Drop(position, pattern, rate),), **settings)


CHANGED_METHODS = [
    "hiddenkey",
    "hiddenkey-js",
    "dropkey-element",
    "dropkey-span",
    "dropattention-element",
    "dropattention-span",
    "hiddencut-span",
    "hiddencut-column",
    "cutoff-span",
    "cutoff-column",
    "cutoff-feature",
    "output-dropout",
]


@pytest.mark.parametrize(
    ("method", "kernel"),
    [
        *((method, "auto") for method in CHANGED_METHODS),
        ("hiddenkey", "reference"),
        ("dropkey-span", "reference"),
        ("dropattention-span", "reference"),
    ],
)
@pytest.mark.parametrize(
    ("family", "task", "padding"),
    [
        *((family, "classification", padding) for family in ENCODERS for padding in ("right",)),
        *((family, "classification", "left") for family in DECODERS),
        *((family, "causal", padding) for family in DECODERS for padding in ("right", "left")),
    ],
)
def test_what_stands_under_padding_is_invisible(family, task, padding, method, kernel):
    model = lora_model(family, task)
    hiddenkey.attach(model, hiddenkey.method(method, rate=0.4), kernel=kernel)
    inputs = batch(task, padding, tokens=11)
    hidden = inputs["attention_mask"] == 0
    changed = {**inputs, "input_ids": inputs["input_ids"].masked_fill(hidden, 17)}
    assert not torch.equal(changed["input_ids"], inputs["input_ids"])
    one, other = run(model, inputs), run(model, changed)
    torch.testing.assert_close(one.loss, other.loss)
    seen = ~hidden if task == "causal" else slice(None)
    torch.testing.assert_close(one.logits[seen], other.logits[seen])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_spans_are_measured_in_visible_tokens(family, padding, attention, monkeypatch):
    """A row with n visible tokens loses a run of round(0.5 · n), never a padded place."""
    drawn = []

    def spy(shape, rate, visible):
        drawn.append(span.keep_mask(shape, rate, visible))
        return drawn[-1]

    monkeypatch.setitem(PATTERNS, "span", spy)
    model = plain_model(family, attention=attention)
    config = DropoutConfig((Drop("hidden", "span", 0.5), Drop("attention_logits", "span", 0.5)))
    hiddenkey.attach(model, config)
    inputs = batch(padding=padding, tokens=12)
    run(model, inputs)
    seen = inputs["attention_mask"].bool()
    length = (0.5 * seen.sum(-1)).round()
    assert len(drawn) == 4
    for keep in drawn:
        fallen = ~keep.squeeze(-1)
        rows = seen if fallen.dim() == 2 else seen[:, None]
        assert not (fallen & ~rows).any()
        assert torch.equal(
            fallen.sum(-1).float(),
            (length if fallen.dim() == 2 else length[:, None]).expand(fallen.shape[:-1]),
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_measured_shares_are_near_the_rates(family, kernel, padding):
    model = plain_model(family)
    config = DropoutConfig(
        (Drop("hidden", "element", 0.2), Drop("attention_logits", "column", 0.4))
    )
    attachment = hiddenkey.attach(model, config, kernel=kernel)
    for seed in range(10):
        run(model, batch(padding=padding, size=8, tokens=24), seed)
    shares = attachment.shares()
    assert set(shares) == {f"{p}/{n}" for p in ("hidden", "attention_logits") for n in (0, 1)}
    # the first visible key of a causal sequence never falls: 1 of at most 24, and of as few as 4
    low = 0.36 if family in ENCODERS else 0.30
    for key, share in shares.items():
        if key.startswith("hidden"):
            assert share == pytest.approx(0.2, abs=0.01)
        else:
            assert low < share < 0.44
    assert all(value != value for value in attachment.shares().values())  # NaN: nothing since


def drawn_key_masks(model, config, inputs, monkeypatch, kernel="auto"):
    """Return the masks that the attention sites drew in one training pass, in order."""
    drawn = []
    for name in ("draw_keys", "draw_entries"):
        original = getattr(site, name)

        def spy(*args, original=original, **settings):
            drawn.append(original(*args, **settings))
            return drawn[-1]

        monkeypatch.setattr(site, name, spy)
    hiddenkey.attach(model, config, kernel=kernel)
    run(model, inputs)
    return drawn


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", ["column", "span", "element"])
@pytest.mark.parametrize("share", [False, True])
def test_masks_are_drawn_for_each_head_sample_and_layer_unless_shared(
    family, pattern, share, monkeypatch
):
    model = plain_model(family, layers=3)
    config = drop_only("attention_logits", pattern, 0.5, share_heads=share)
    drawn = drawn_key_masks(model, config, batch(padding="none", tokens=20), monkeypatch)
    assert len(drawn) == 3
    for mask in drawn:
        assert mask.shape[:2] == (4, 4)
        alike = [torch.equal(mask[:, 0], mask[:, head]) for head in range(1, 4)]
        assert all(alike) if share else not any(alike)
        assert not torch.equal(mask[0], mask[1])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("kernel", ["fused", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_keep_first_protects_the_first_visible_key_of_causal_models(
    family, padding, kernel, monkeypatch
):
    inputs = batch(padding=padding, tokens=12)
    first = inputs["attention_mask"].argmax(-1)
    rows = torch.arange(4)
    fallen = {}
    for keep_first in (True, False):
        config = drop_only("attention_logits", "column", 0.7, keep_first=keep_first)
        with seeded(7):
            drawn = drawn_key_masks(plain_model(family), config, inputs, monkeypatch, kernel)
        fallen[keep_first] = any((~mask[rows, :, first]).any() for mask in drawn)
    assert fallen[True] is (family in ENCODERS)
    assert fallen[False]


@pytest.mark.parametrize("kernel", ["fused", "reference"])
@pytest.mark.parametrize("family", DECODERS)
def test_without_keep_first_a_query_that_lost_all_keys_keeps_them_and_sees_no_future(
    family, kernel
):
    """At rate 0.9 most early queries lose all they see."""
    model = plain_model(family, "causal")
    config = drop_only("attention_logits", "column", 0.9, keep_first=False)
    hiddenkey.attach(model, config, kernel=kernel)
    inputs = batch("causal", "left", tokens=12)
    one = run(model, inputs)
    changed = inputs["input_ids"].clone()
    changed[:, 9:] = 5
    other = run(model, {**inputs, "input_ids": changed})
    assert one.logits.isfinite().all()
    torch.testing.assert_close(one.logits[:, :9], other.logits[:, :9])
    assert not torch.allclose(one.logits[:, 9:], other.logits[:, 9:])
    assert all(g.isfinite().all() for g in step(model, inputs)[1].values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["hidden", "attention_logits", "attention_weights"])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_layers_choose_where_noise_acts(family, position, kernel):
    """Layer outputs agree up to the first chosen layer; later ones would hide a missing layer."""
    model = plain_model(family, layers=3)
    inputs = batch(padding="left")

    def layer_updates(config, seed):
        """Run each layer on fixed input, by feeding every layer the states of a clean pass."""
        updates = []
        handles = []
        stack = model.get_submodule(LAYER_STACK[family])

        def feed(module, args):
            return (fixed, *args[1:])

        def keep(module, args, output):
            updates.append(output[0] if isinstance(output, tuple) else output)

        for layer in stack:
            handles += [
                layer.register_forward_pre_hook(feed),
                layer.register_forward_hook(keep),
            ]
        with hiddenkey.attach(model, config, kernel=kernel):
            run(model, inputs, seed)
        for handle in handles:
            handle.remove()
        return updates

    fixed = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(1))
    clean = layer_updates(DropoutConfig(), 0)
    for layers, noisy in ((None, {0, 1, 2}), ((0, 2), {0, 2}), ((1,), {1}), ((2, 0), {0, 2})):
        config = drop_only(position, "column", 0.5, layers=layers)
        updates = layer_updates(config, 0)
        changed = {i for i in range(3) if not torch.equal(updates[i], clean[i])}
        # a fused kernel may round differently, but only where it runs
        assert changed == noisy
        attachment = hiddenkey.attach(model, config)
        assert {site.layer for site in attachment.sites} == noisy
        attachment.detach()


def test_layers_leave_input_and_output_alone():
    model = plain_model("bert", layers=3)
    config = DropoutConfig(
        (Drop("input", "column", 0.5), Drop("output", "element", 0.5)), layers=(1,)
    )
    attachment = hiddenkey.attach(model, config)
    assert [(s.name, s.layer, s.key) for s in attachment.sites] == [
        ("bert.encoder.layer.0", None, "input"),
        ("classifier", None, "output"),
    ]
    run(model, batch())
    assert all(0 < share < 1 for share in attachment.shares().values())
