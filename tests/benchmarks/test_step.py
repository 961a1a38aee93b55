"""benchmarks/step.py on tiny random models: what it claims to train is what trains."""

import argparse
import math

import pytest
import torch

import models
import step
import step_methods
import step_models
import step_training
from hiddenkey.attachment.attachment import attachment_of

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

PLAIN = argparse.Namespace(
    compile=False, checkpointing=False, batch=None, tokens=None, no_padding=False, device="cpu"
)
SPECS = {
    "bert": step_models.Spec(
        lambda dtype: models.plain_model("bert"), "SEQ_CLS", ("key", "value"), 4, 8
    ),
    "gpt2": step_models.Spec(
        lambda dtype: models.plain_model("gpt2", "causal"),
        "CAUSAL_LM",
        ("c_attn",),
        4,
        8,
        transposed=True,
    ),
}
VARIANTS = step_methods.variants("anywhere")
BRANCHES = ("one", "both")


def prepare(family, name, **arguments):
    spec = SPECS[family]
    base = step_models.build(spec, "float32", "cpu")
    options = argparse.Namespace(**{**vars(PLAIN), **arguments})
    training = step_training.Training(base, spec, VARIANTS[name], options)
    return base, training, step_training.batch_of(spec, base, options)


def noise_of(training, inputs, calls=4):
    """How far the losses of equal calls lie apart."""
    losses = [training.loss(training.model, inputs).item() for _ in range(calls)]
    return max(losses) - min(losses)


NOISELESS = ("lora", "lora-no-hooks", "lora-average", "label-smoothing")


@pytest.mark.parametrize("family", SPECS)
@pytest.mark.parametrize("name", step_methods.NAMES)
def test_every_method_attaches_and_trains_with_its_noise_alone(family, name):
    base, training, inputs = prepare(family, name)
    frozen = {n: p.clone() for n, p in base.named_parameters()}
    before = {n: p.detach().clone() for n, p in training.model.named_parameters()}
    # LoRA's B is zero before the first step, and hides A and its dropout; CoTo drops all of it
    for _ in range(12 if name == "coto" else 2):
        training(inputs)
    changed = {
        n for n, p in training.model.named_parameters() if not torch.equal(p.detach(), before[n])
    }
    assert changed == {n for n, p in training.model.named_parameters() if p.requires_grad}
    assert any("lora_A" in n for n in changed)
    assert any("lora_B" in n for n in changed)
    assert all(torch.equal(p, frozen[n]) for n, p in base.named_parameters())
    noise = noise_of(training, inputs, 60 if name == "coto" else 4)  # nine of ten updates are off
    if name == "temporal":  # no noise, but the first of two passes is the second one's target
        assert noise < 1e-4
    else:
        assert (noise == 0) == (name in NOISELESS)
    unattached = ("lora-no-hooks", "own-dropout", "r-drop")
    assert (attachment_of(training.model) is None) == (name in unattached)


def test_variants_are_configured_as_their_names_say():
    loss = {}
    for name in step_methods.NAMES:
        attachment = attachment_of(prepare("bert", name)[1].model)
        loss[name] = attachment.config.consistency if attachment else None
    assert (loss["hiddenkey"].kind, loss["hiddenkey"].backward) == ("kl", "one")
    assert loss["hiddenkey-both"].backward == "both"
    assert [loss[f"hiddenkey-every-{k}"].every for k in (2, 4)] == [2, 4]
    assert [loss[f"hiddenkey-fraction-{f}"].fraction for f in (0.5, 0.25)] == [0.5, 0.25]
    assert loss["hiddenkey-js"].kind == "js"
    assert loss["temporal"].target == loss["hiddenkey-temporal"].target == "history"
    assert loss["label-smoothing"].kind == "label-smoothing"
    without = [n for n, variant in VARIANTS.items() if variant.second and not loss[n]]
    assert without == [*(f"hiddenkey-side-by-side-{branch}" for branch in BRANCHES), "r-drop"]
    top = attachment_of(prepare("bert", "hiddenkey-top-half")[1].model)
    assert top.config.layers == (1,)


def test_trainings_share_frozen_weights_and_nothing_that_is_trained():
    spec = SPECS["bert"]
    base = step_models.build(spec, "float32", "cpu")
    one, two = (
        step_training.Training(base, spec, VARIANTS[name], PLAIN).model
        for name in ("hiddenkey", "lora-dropout")
    )
    shared = {p.data_ptr() for p in base.parameters()}
    for model in (one, two):
        own = {n: p for n, p in model.named_parameters() if p.data_ptr() not in shared}
        assert {p.data_ptr() for p in model.parameters()} >= shared
        assert own
        assert all(p.requires_grad for p in own.values())
        assert all("lora_" in n or "modules_to_save" in n for n in own)
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all((a.data_ptr() == b.data_ptr()) != a.requires_grad for a, b in pairs)
    assert attachment_of(two) is not attachment_of(one)


@pytest.mark.parametrize("family", SPECS)
def test_r_drop_by_doubling_is_cross_entropy_and_half_of_both_divergences(family):
    _, training, inputs = prepare(family, "r-drop")
    with models.seeded(3):
        loss = training.loss(training.model, inputs)
    labels = inputs["labels"]
    with models.seeded(3):
        logits = training.model(
            input_ids=inputs["input_ids"].repeat(2, 1),
            attention_mask=inputs["attention_mask"].repeat(2, 1),
        ).logits.double()
    if family == "gpt2":
        labelled = labels[:, 1:] != -100
        one, two = (half[:, :-1][labelled] for half in logits.chunk(2))
        labels = labels[:, 1:][labelled]
    else:
        one, two = logits.chunk(2)
    p, q = one.softmax(-1), two.softmax(-1)
    divergence = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)) / 2
    index = torch.arange(len(labels))
    task = -(p[index, labels].log() + q[index, labels].log()) / 2
    assert divergence.mean() > 1e-4
    torch.testing.assert_close(loss.double(), (task + divergence).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", SPECS)
@pytest.mark.parametrize("backward", BRANCHES)
def test_side_by_side_is_the_loss_of_two_passes(family, backward):
    """In float64 from the logits of both halves; of one branch, the other half has no gradient."""
    _, training, inputs = prepare(family, f"hiddenkey-side-by-side-{backward}")
    training(inputs)  # LoRA's B is zero before the first step
    kept = []
    handle = training.model.register_forward_hook(lambda *call: kept.append(call[-1].logits))
    loss = training.loss(training.model, inputs)
    handle.remove()
    (logits,) = kept
    (gradient,) = torch.autograd.grad(loss, logits)
    labels, shift = inputs["labels"], 1 if family == "gpt2" else 0
    one, two = (half[:, :-1] if shift else half for half in logits.detach().double().chunk(2))
    labels = labels[:, 1:] if shift else labels
    counted = labels != -100
    p, q = one[counted].softmax(-1), two[counted].softmax(-1)
    index = torch.arange(int(counted.sum()))
    divergence = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)) / 2
    task = -p[index, labels[counted]].log()
    if backward == "both":
        task = (task - q[index, labels[counted]].log()) / 2
    assert divergence.mean() > 1e-6
    torch.testing.assert_close(loss.double(), (task + divergence).mean(), rtol=1e-5, atol=1e-6)
    first, second = gradient.chunk(2)
    assert first.any()
    assert second.any() == (backward == "both")


def test_batches_are_padded_on_the_right_unless_told_otherwise():
    inputs = prepare("gpt2", "lora")[2]
    assert inputs["attention_mask"].sum(-1).tolist() == [8, 7, 6, 5]
    assert torch.equal(inputs["labels"] == -100, inputs["attention_mask"] == 0)
    full = prepare("gpt2", "lora", no_padding=True, tokens=6)[2]
    assert full["attention_mask"].tolist() == [[1] * 6] * 4


def test_checkpointing_recomputes_layers():
    _, training, inputs = prepare("bert", "hiddenkey", checkpointing=True)
    assert training.model.get_base_model().is_gradient_checkpointing
    training(inputs)


def test_cycles_are_whole_and_restart_with_the_loss():
    assert step.whole_cycles(3, VARIANTS.values()) == 4
    assert step.whole_cycles(3, [VARIANTS["hiddenkey"]]) == 3
    _, training, inputs = prepare("bert", "hiddenkey-every-4")
    training(inputs)
    training.restart_cycle()
    training(inputs)
    assert "consistency" in attachment_of(training.model).losses


def test_bounds_follow_from_the_passes():
    bounds = {name: variant.bound(2.0, 3.0, 1.0) for name, variant in VARIANTS.items()}
    assert bounds["lora"] is None
    assert math.isclose(bounds["hiddenkey"], 1.2)
    assert math.isclose(bounds["hiddenkey-every-4"], 1.05)
    assert bounds["hiddenkey-both"] == bounds["r-drop"] == 2
    assert {bounds[f"hiddenkey-side-by-side-{branch}"] for branch in BRANCHES} == {2}


def test_table_counts_the_mean_where_steps_differ():
    seconds = {"lora": [1.0] * 4, "hiddenkey-every-4": [2.0, 1.0, 1.0, 1.0]}
    rows = [step.timing_row(n, VARIANTS[n], seconds, None) for n in seconds]
    memory = {"lora": {"growth_bytes": 2**20, "peak_bytes": 2**22}}
    memory["hiddenkey-every-4"] = {n: 2 * size for n, size in memory["lora"].items()}
    rows = [row | step.memory_row(row["variant"], memory) for row in rows]
    lines = step.table(rows).splitlines()
    assert "1.25 (mean)" in lines[-1]
    assert lines[-1].endswith("| 2 | 2.00 | 8 | 2.000 |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_step_shows_a_recompilation_only_where_something_compiles():
    _, training, inputs = prepare("bert", "lora")
    training(inputs)
    assert training.recompiled == [False]


def test_real_models_have_the_dimensions_of_their_names():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in step_models.SPECS[name].build(torch.bfloat16).parameters())
            for name in ("roberta-large", "gpt2-medium", "llama2-7b")
        }
    assert counts["gpt2-medium"] == 354_823_168
    assert counts["llama2-7b"] == 6_738_415_616
    assert 355e6 < counts["roberta-large"] < 357e6
    assert step_models.SPECS["gpt2-medium"].rank == 4
