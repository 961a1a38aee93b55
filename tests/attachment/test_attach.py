"""Attaching to each family: where it acts, what it does in training, and what it leaves behind."""

import copy
import io
import json

import pytest
import torch
from torch import nn

import hiddenkey
from hiddenkey import Consistency, Drop, DropoutConfig
from models import (
    ATTENTION,
    ATTENTIONS,
    DECODERS,
    ENCODERS,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    SECOND_DENSE,
    assert_same_gradients,
    batch,
    build,
    lora_model,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
    transformer_in,
)

HALF = hiddenkey.method("hiddenkey-minus", rate=0.5)

everywhere = pytest.mark.parametrize(
    ("family", "task", "peft", "attention"),
    [
        pytest.param(family, task, peft, attention, id=f"{family}-{task}-{name}-{attention}")
        for family, task in FAMILY_TASKS
        for peft, name in ((False, "plain"), (True, "lora"))
        for attention in ATTENTIONS
    ],
)


def drop_only(position: str, pattern: str, rate: float, **settings) -> DropoutConfig:
    return DropoutConfig((Drop(position, pattern, rate),), **settings)


@everywhere
def test_hiddenkey_has_an_attention_and_a_hidden_site_in_every_layer(family, task, peft, attention):
    model = build(family, task, peft=peft, attention=attention, layers=3)
    attachment = hiddenkey.attach(model, "hiddenkey")
    found = {(s.layer, s.position, s.pattern, s.name) for s in attachment.sites}
    stack = LAYER_STACK[family]
    expected = {
        (layer, position, pattern, f"{stack}.{layer}.{name}")
        for layer in range(3)
        for position, pattern, name in (
            ("attention_logits", "column", ATTENTION[family]),
            ("hidden", "element", SECOND_DENSE[family]),
        )
    }
    assert found == expected
    assert len(attachment.sites) == 6
    modules = dict(transformer_in(model).named_modules())
    assert all(site.name in modules for site in attachment.sites)
    assert {(s.rate, s.rescale, s.kernel) for s in attachment.sites} == {
        (0.1, "none", "fused"),
        (0.1, "inverse", "hook"),
    }


@everywhere
def test_noise_is_in_training_only_and_follows_the_seed(family, task, peft, attention):
    model = build(family, task, peft=peft, attention=attention)
    inputs = batch(task, "left")
    model.eval()
    untouched = model(**inputs)
    hiddenkey.attach(model, HALF)
    evaluated = model(**inputs)
    assert torch.equal(evaluated.logits, untouched.logits)
    assert torch.equal(evaluated.loss, untouched.loss)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    one, again, other = run(model, inputs, 1), run(model, inputs, 1), run(model, inputs, 2)
    assert torch.equal(one.logits, again.logits)
    assert not torch.allclose(one.logits, other.logits, atol=1e-3)
    assert not torch.allclose(one.logits, untouched.logits, atol=1e-3)
    model.eval()
    assert torch.equal(model(**inputs).logits, untouched.logits)


@everywhere
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_gradients_are_finite_and_reach_every_trained_matrix(
    family, task, peft, attention, padding
):
    more = {"feed_forward": True} if peft else {}
    model = build(family, task, peft=peft, attention=attention, **more)
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    loss, gradients = step(model, batch(task, padding))
    assert loss == pytest.approx(loss)  # not NaN
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    adapters = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert len(adapters) == (
        2 * 2 * {"bert": 4, "roberta": 4, "gpt2": 3, "llama": 5}[family] if peft else 0
    )
    matrices = adapters or [name for name, p in model.named_parameters() if p.dim() == 2]
    unused = ("token_type", "position", "wpe")
    for name in matrices:
        if not any(part in name for part in unused):
            assert gradients[name].abs().max() > 0, name


@everywhere
def test_detach_restores_everything(family, task, peft, attention, tmp_path):
    model = build(family, task, peft=peft, attention=attention, dropout=0.3)
    inputs = batch(task, "left")
    plain_loss, plain_gradients = step(model, inputs)
    model.save_pretrained(tmp_path / "before")
    # only now, since calls with labels and saving settle some of the model's own config
    before = snapshot(model)
    weights = copy.deepcopy(model.state_dict())

    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    noisy_loss, _ = step(model, inputs)
    assert noisy_loss != plain_loss
    assert snapshot(model) != before
    assert model.state_dict().keys() == weights.keys()
    model.save_pretrained(tmp_path / "during")
    attachment.detach()

    assert snapshot(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    loss, gradients = step(model, inputs)
    assert loss == plain_loss
    assert_same_gradients(gradients, plain_gradients, rtol=0, atol=0)
    for file in (tmp_path / "before").iterdir():
        if file.name != "README.md":
            assert file.read_bytes() == (tmp_path / "during" / file.name).read_bytes(), file.name
    assert len(list((tmp_path / "before").iterdir())) == len(list((tmp_path / "during").iterdir()))


@everywhere
def test_a_rate_of_zero_is_the_model_without_dropout(family, task, peft, attention):
    """The library's own attention paths read masks, causality and scaling as the model's do."""
    model = build(family, task, peft=peft, attention=attention, dropout=0.0)
    for padding in ("none", "right", "left"):
        inputs = batch(task, padding)
        plain_loss, plain_gradients = step(model, inputs)
        for kernel in ("reference", "fused"):
            with hiddenkey.attach(
                model, hiddenkey.method("hiddenkey-minus", rate=0.0), kernel=kernel
            ):
                loss, gradients = step(model, inputs)
            assert loss == pytest.approx(plain_loss, rel=1e-5)
            assert_same_gradients(gradients, plain_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "scale", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}]
)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gpt2_keeps_its_unusual_scaling(scale, attention):
    model = plain_model("gpt2", "causal", attention=attention, dropout=0.0, **scale)
    inputs = batch("causal", "left")
    plain_loss, _ = step(model, inputs)
    for kernel in ("reference", "fused"):
        with hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.0), kernel=kernel):
            assert step(model, inputs)[0] == pytest.approx(plain_loss, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_and_eager_models_train_alike(family):
    losses, found = [], []
    for attention in ATTENTIONS:
        model = lora_model(family, attention=attention)
        hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
        loss, gradients = step(model, batch(padding="left"))
        losses.append(loss)
        found.append(gradients)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_same_gradients(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dropkey-column", "dropkey-span", "dropattention-column"])
def test_fused_and_reference_kernels_train_alike(family, method):
    found = []
    for kernel in ("fused", "reference"):
        model = lora_model(family)
        attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.4), kernel=kernel)
        assert {site.kernel for site in attachment.sites} == {kernel}
        found.append(step(model, batch(padding="left"))[1])
    assert_same_gradients(*found, rtol=1e-4, atol=1e-5)


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
    from hiddenkey.framework.patterns import PATTERNS, span

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


def test_evaluation_counts_no_share_and_no_loss():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    model.eval()
    model(**batch())
    assert all(share != share for share in attachment.shares().values())
    assert attachment.losses == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_ways_to_call_give_the_same_noise(family):
    """Positional arguments, and embeddings in place of ids."""
    model = transformer_in(
        plain_model(family, "causal" if family in DECODERS else "classification")
    )
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    task = "causal" if family in DECODERS else "classification"
    inputs = batch(task, "right")
    expected = run(model, inputs)
    with seeded(0):
        positional = model(
            inputs["input_ids"],
            labels=inputs["labels"],
            attention_mask=inputs["attention_mask"],
        )
    assert torch.equal(positional.loss, expected.loss)
    if family in ("bert", "llama"):  # the others make positions out of ids
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        rest = {"attention_mask": inputs["attention_mask"], "labels": inputs["labels"]}
        with seeded(0):
            assert torch.equal(model(inputs_embeds=embeddings, **rest).logits, expected.logits)


def test_a_model_without_an_attention_mask_sees_all_tokens():
    model = plain_model("bert")
    hiddenkey.attach(model, hiddenkey.method("hiddencut", rate=0.5))
    inputs = batch(padding="none")
    with_mask = run(model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(run(model, inputs).logits, with_mask.logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [False, True])
def test_the_models_own_dropout_is_off_unless_kept(family, keep):
    model = plain_model(family, dropout=0.4)
    nothing = DropoutConfig(keep_model_dropout=keep)
    inputs = batch()
    plain = run(model, inputs, 5).logits
    attachment = hiddenkey.attach(model, nothing)
    one, other = run(model, inputs, 5).logits, run(model, inputs, 6).logits
    assert torch.equal(one, plain) is keep
    assert torch.equal(one, other) is not keep
    attachment.detach()
    assert torch.equal(run(model, inputs, 5).logits, plain)


@pytest.mark.parametrize("keep", [False, True])
def test_the_attentions_own_dropout_acts_beside_the_attention_drops(keep):
    """BERT's attention dropout alone, with DropKey's rate at zero."""
    model = plain_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.4)
    config = drop_only("attention_logits", "column", 0.0, keep_model_dropout=keep)
    hiddenkey.attach(model, config)
    inputs = batch()
    one, other = run(model, inputs, 1).logits, run(model, inputs, 2).logits
    assert torch.equal(one, other) is not keep


@pytest.mark.parametrize("keep", [False, True])
def test_loras_own_dropout_is_never_touched(keep):
    model = lora_model("bert", dropout=0.0, lora_dropout=0.5)
    inputs = batch()
    plain = run(model, inputs, 3).logits
    hiddenkey.attach(model, DropoutConfig(keep_model_dropout=keep))
    assert torch.equal(run(model, inputs, 3).logits, plain)
    assert not torch.equal(run(model, inputs, 4).logits, plain)
    rates = [m.p for n, m in model.named_modules() if "lora_dropout" in n and hasattr(m, "p")]
    assert rates == [0.5] * 4


def drawn_key_masks(model, config, inputs, monkeypatch, kernel="auto"):
    """Return the masks that the attention sites drew in one training pass, in order."""
    from hiddenkey.attention import site

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


def test_two_copies_of_one_class_do_not_disturb_each_other():
    """Each trains as it would alone, with calls and detaching interleaved."""
    inputs = batch(padding="left")
    configs = (
        hiddenkey.method("hiddenkey", rate=0.4),
        DropoutConfig((Drop("attention_weights", "element", 0.2),), share_heads=True),
    )

    def losses(model, count):
        return [step(model, inputs, seed) for seed in range(count)]

    alone = []
    for config in configs:
        model = lora_model("llama")
        hiddenkey.attach(model, config)
        alone.append(losses(model, 3))

    models = [lora_model("llama") for _ in range(2)]
    attachments = [hiddenkey.attach(m, c) for m, c in zip(models, configs, strict=True)]
    together: list[list] = [[], []]
    for seed in range(2):
        for model, results in zip(models, together, strict=True):
            results.append(step(model, inputs, seed))
    attachments[0].detach()
    together[1].append(step(models[1], inputs, 2))
    for mine, own in zip(together, alone, strict=True):
        for (loss, gradients), (own_loss, own_gradients) in zip(mine, own, strict=False):
            assert loss == own_loss
            assert_same_gradients(gradients, own_gradients, rtol=0, atol=0)
    assert attachments[1].losses["task"] == pytest.approx(together[1][-1][0])
    assert len(together[1]) == 3


def test_sdpa_eager_and_plain_models_live_side_by_side():
    inputs = batch(padding="left")
    makers = [
        lambda: plain_model("bert", attention="sdpa"),
        lambda: plain_model("bert", attention="eager"),
        lambda: plain_model("bert", attention="sdpa"),
    ]
    methods = ["dropkey", "dropattention-span", None]

    def attached(maker, method):
        model = maker()
        if method:
            hiddenkey.attach(model, hiddenkey.method(method, rate=0.4))
        return model

    alone = [
        run(attached(maker, method), inputs).logits
        for maker, method in zip(makers, methods, strict=True)
    ]
    models = [attached(maker, method) for maker, method in zip(makers, methods, strict=True)]
    for _ in range(2):
        for model, expected in zip(models, alone, strict=True):
            assert torch.equal(run(model, inputs).logits, expected)
    assert [m.config._attn_implementation for m in models] == ["sdpa", "eager", "sdpa"]


def test_attaching_twice_replaces_the_first():
    model, fresh = lora_model("bert"), lora_model("bert")
    inputs = batch()
    untouched = snapshot(model)
    first = hiddenkey.attach(model, "hiddenkey")
    second = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.3))
    hiddenkey.attach(fresh, hiddenkey.method("dropkey", rate=0.3))
    assert torch.equal(run(model, inputs).loss, run(fresh, inputs).loss)
    assert first.shares() == {} or all(s != s for s in first.shares().values())
    first.detach()  # of no effect any more
    assert torch.equal(run(model, inputs).loss, run(fresh, inputs).loss)
    second.detach()
    second.detach()
    after = snapshot(model)
    after = {k: v for k, v in after.items() if not k.endswith(": config")}
    assert after == {k: v for k, v in untouched.items() if not k.endswith(": config")}


def test_the_context_manager_detaches_even_on_errors():
    model = lora_model("bert")
    step(model, batch())
    before = snapshot(model)
    with hiddenkey.attach(model, "hiddenkey") as attachment:
        assert isinstance(attachment, hiddenkey.Attachment)
        step(model, batch())
    assert snapshot(model) == before
    with pytest.raises(KeyError, match="mine"), hiddenkey.attach(model, "hiddenkey"):  # noqa: PT012
        step(model, batch())
        raise KeyError("mine")
    assert snapshot(model) == before


def test_a_failing_forward_leaves_a_working_attachment():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    expected = run(model, batch()).loss
    with pytest.raises(IndexError):
        model(input_ids=torch.full((2, 4), 1000), labels=torch.zeros(2, dtype=torch.long))
    assert torch.equal(run(model, batch()).loss, expected)
    assert sum(attachment.losses.values()) == pytest.approx(expected.item())


def test_summary_and_str():
    model = lora_model("bert", layers=3)
    config = DropoutConfig(
        (*hiddenkey.method("hiddenkey", rate=0.2).drops, Drop("output", "element", 0.3)),
        Consistency(weight=2.0, fraction=0.5, every=3),
        layers=(0, 2),
    )
    attachment = hiddenkey.attach(model, config)
    assert attachment.summary() == [
        "attention_logits: column, rate 0.2, rescale none, 2 of 3 layers, fused",
        "hidden: element, rate 0.2, rescale inverse, 2 of 3 layers, hook",
        "output: element, rate 0.3, rescale inverse, classifier, hook",
        "consistency: kl, weight 2, backward one, fraction 0.5, every 3",
        "the model's own dropout: off, was 0.1 in 11 places (keep_model_dropout=True leaves it on)",
    ]
    assert str(attachment) == "\n".join(attachment.summary())
    lines = str(hiddenkey.attach(model, "lora")).splitlines()
    assert lines == ["no noise", attachment.summary()[-1]]
    without = plain_model("llama")
    for attention in (each.self_attn for each in without.model.layers):
        attention.attention_dropout = 0.0
    shown = str(hiddenkey.attach(without, "lora"))
    assert shown == "no noise; the model's own dropout is off"
    kept = DropoutConfig(keep_model_dropout=True)
    assert str(hiddenkey.attach(model, kept)) == "no noise; the model's own dropout is on"


@pytest.mark.parametrize("after_training", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_deep_copy_of_an_attached_model_is_attached_on_its_own(task, after_training):
    model = lora_model("bert", task)
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    inputs = batch(task)
    if after_training:
        step(model, inputs)
    expected, _ = step(model, inputs, 3)
    double = copy.deepcopy(model)
    passes = attachment.consistency_passes
    assert step(double, inputs, 3)[0] == expected
    assert attachment.consistency_passes == passes
    assert sum(attachment.losses.values()) == pytest.approx(expected)
    attachment.detach()
    assert step(double, inputs, 3)[0] == expected
    hiddenkey.attach(double, "lora").detach()
    assert snapshot(double) == snapshot(model)


@pytest.mark.parametrize("method", ["hiddenkey", "temporal", "label-smoothing"])
def test_a_language_model_can_be_copied_after_a_pass_without_logits(method):
    """As ``torch.optim.swa_utils.AveragedModel`` does."""
    model = lora_model("llama", "causal")
    hiddenkey.attach(model, method, lm_loss="chunked")
    inputs = batch("causal")
    step(model, inputs)
    assert step(copy.deepcopy(model), inputs, 3)[0] == step(model, inputs, 3)[0]


def test_a_whole_attached_model_can_be_pickled():
    model = lora_model("bert")
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    inputs = batch()
    step(model, inputs)
    expected, _ = step(model, inputs, 3)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert step(loaded, inputs, 3)[0] == expected


def test_a_model_can_be_copied_after_evaluation_and_between_due_passes():
    """Nothing of a pass that does not need it, such as its graph, is held."""
    model = lora_model("bert", "regression")
    config = DropoutConfig((), Consistency(every=2))
    hiddenkey.attach(model, config)
    inputs = batch("regression")
    step(model, inputs)
    step(model, inputs)
    copy.deepcopy(model)
    model.eval()
    model(**inputs)
    copy.deepcopy(model)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_saving_while_attached_writes_a_plain_model(family, tmp_path):
    model = plain_model(family, attention="eager")
    inputs = batch()
    hiddenkey.attach(model, "hiddenkey")
    step(model, inputs)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "hiddenkey" not in text
    assert "attn_implementation" not in json.loads(text)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    model.eval()
    torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)


def test_a_saved_state_dict_is_that_of_the_untouched_model():
    model = lora_model("bert")
    files = []
    for _ in range(2):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        files.append(file.getvalue())
        hiddenkey.attach(model, "hiddenkey")
    assert files[0] == files[1]


def test_adapters_added_by_transformers_itself_are_accepted():
    """``PreTrainedModel.add_adapter`` puts LoRA into a model without wrapping it."""
    from peft import LoraConfig

    model = plain_model("bert")
    config = LoraConfig(target_modules=["key", "value"], r=4)
    try:
        with seeded(1):
            model.add_adapter(config)
    except ValueError as refusal:  # transformers wants a later PEFT
        pytest.skip(str(refusal))
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    loss, gradients = step(model, batch())
    assert attachment.losses.keys() == {"task", "consistency"}
    assert sum(attachment.losses.values()) == pytest.approx(loss)
    assert all(g.isfinite().all() for g in gradients.values())


def test_noise_reaches_a_model_attached_through_its_inner_model():
    """``attach(peft_model.get_base_model(), …)`` is either the same as ``attach(peft_model, …)``
    or refused, never half at work."""
    model, expected = lora_model("bert"), lora_model("bert")
    config = hiddenkey.method("hiddenkey", rate=0.4)
    hiddenkey.attach(expected, config)
    wanted = step(expected, batch())[0]
    try:
        hiddenkey.attach(model.get_base_model(), config)
        got = step(model, batch())[0]
    except (hiddenkey.AttachError, hiddenkey.ConsistencyError):
        return
    assert got == wanted


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = lora_model("bert"), plain_model("gpt2")

    def forward(self, **inputs):
        return self.left(**inputs).loss + self.right(**inputs).loss


def test_attached_models_work_inside_a_larger_module():
    towers = TwoTowers()
    attachments = [hiddenkey.attach(t, "hiddenkey") for t in (towers.left, towers.right)]
    inputs = batch()
    with seeded(0):
        loss = towers(**inputs)
    loss.backward()
    assert loss.item() == pytest.approx(sum(sum(a.losses.values()) for a in attachments))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
def test_noise_goes_on_when_the_attention_implementation_is_changed(family, chosen):
    task = "classification" if family == "bert" else "causal"
    model = plain_model(family, task, dropout=0.0)
    model.set_attn_implementation("sdpa" if chosen == "eager" else "eager")
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.5))
    inputs = batch(task)
    model(**inputs).loss.backward()
    attachment.shares()
    model.set_attn_implementation(chosen)
    seeded(1)
    noisy = model(**inputs).loss.item()
    assert all(0.2 < share < 0.8 for share in attachment.shares().values())
    seeded(2)
    assert model(**inputs).loss.item() != noisy
    attachment.detach()
    assert model.config._attn_implementation == chosen


def test_an_implementation_that_cannot_drop_is_refused_in_the_next_pass():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, "dropkey")
    model(**batch("causal"))
    model.config._attn_implementation_internal = "paged|sdpa"
    with pytest.raises(hiddenkey.AttachError, match=r"this model uses 'paged\|sdpa'"):
        model(**batch("causal"))
    attachment.detach()
    assert model.config._attn_implementation == "paged|sdpa"
