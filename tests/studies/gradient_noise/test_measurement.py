"""Equal masks for both methods, and what is measured with them, on tiny models."""

import dataclasses
import re

import pytest
import torch

import hiddenkey
from gradient_noise.comparison import compare
from gradient_noise.measurement import (
    METHODS,
    Pair,
    analyse,
    lora_matrices,
    prepare_analysis,
    refuse_unequal,
)
from gradient_noise.options import GradientNoiseOptions
from gradient_noise.training_points import fixed_batches, train_through
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.errors import AttachError, ConfigError
from models import batch, lora_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SEED = 3


@pytest.fixture
def options(tiny_options, tmp_path):
    names = ("model", "task", "train_file", "eval_file", "text_columns", "max_length", "rank")
    return GradientNoiseOptions(
        **{name: getattr(tiny_options, name) for name in names},
        rates=(0.3,),
        masks=8,
        batches=2,
        batch_size=8,
        train_steps=4,
        points=(0.0, 1.0),
        learning_rate=1e-2,
        output=str(tmp_path / "analysis"),
    )


def with_method(model, method, rate, inputs):
    """Gradients of one pass as a user of the library has them."""
    with hiddenkey.attach(model, hiddenkey.method(method, rate)):
        torch.manual_seed(SEED)
        loss = model.train()(**inputs).loss
        matrices = lora_matrices(model)
        return dict(zip(matrices, torch.autograd.grad(loss, [*matrices.values()]), strict=True))


@pytest.mark.parametrize("pattern", ["column", "element"])
@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("bert", "regression"), ("llama", "causal")]
)
def test_both_of_a_pair_are_the_named_methods_with_equal_masks(family, task, pattern):
    model = lora_model(family, task, dropout=0.0)
    inputs = batch(task)
    with Pair(model, pattern) as pair:
        pair.set_rate(0.3)
        found = {method: pair.run(method, inputs, SEED) for method in METHODS}
    torch.testing.assert_close(found["dropkey"].outputs, found["dropattention"].outputs)
    for method in METHODS:
        expected = with_method(model, f"{method}-{pattern}", 0.3, inputs)
        for name, gradient in found[method].gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


def test_the_methods_differ_below_the_last_softmax_only():
    """The last layer's values get the same gradient; its keys, and all below, another one."""
    with Pair(lora_model("bert", dropout=0.0), "column") as pair:
        pair.set_rate(0.3)
        one, two = (pair.run(method, batch(), SEED).gradients for method in METHODS)
    alike = {name for name in one if torch.allclose(one[name], two[name], atol=1e-6, rtol=1e-4)}
    last = [name for name in one if re.search(r"layer\.1\..*value", name)]
    assert len(one) == 8
    assert alike == set(last)


def test_rate_0_is_the_gradient_without_noise_and_the_model_is_left_as_it_was():
    model, inputs = lora_model("bert", dropout=0.0), batch()
    before = model.eval()(**inputs).logits
    expected = with_method(model, "lora", None, inputs)
    with Pair(model, "column") as pair:
        pair.set_rate(0.0)
        found = [pair.run(method, inputs, SEED).gradients for method in METHODS]
    for name, gradient in expected.items():
        for gradients in found:
            torch.testing.assert_close(gradients[name], gradient)
    assert attachment_of(model) is None
    assert torch.equal(model.eval()(**inputs).logits, before)


def test_attention_is_seen_in_every_layer_when_asked_for():
    with Pair(lora_model("bert", dropout=0.0), "column") as pair:
        pair.set_rate(0.3)
        assert pair.run("dropkey", batch(), SEED).logits == []
        seen = pair.run("dropkey", batch(), SEED, spy=True).logits
    assert [entry.logits.shape for entry in seen] == [(4, 4, 9, 9)] * 2
    assert all(entry.gradient.shape == (4, 4, 9, 9) for entry in seen)


def test_unequal_outputs_are_refused():
    refuse_unequal(1e-7, 1.0)
    for difference in (0.1, float("nan")):
        with pytest.raises(AttachError, match="must give equal outputs under equal masks, got"):
            refuse_unequal(difference, 2.0)


def test_measurements_are_those_of_gradients_that_are_kept(options):
    prepared = prepare_analysis(options)
    told = []
    found = analyse(options, prepared, told.append)
    assert found == told
    assert [(setting.point.step, setting.rate) for setting in found] == [(0, 0.3), (4, 0.3)]
    start, end = found
    assert all(setting.difference < 1e-5 * setting.largest for setting in found)
    assert start.maps.shares["dropkey"].absolute == 0.0
    assert start.maps.shares["dropattention"].absolute > 0.01
    assert compare(start, lambda name: name.endswith("lora_A")).noise_ratio.value is None
    assert end.point.loss != start.point.loss

    trained = train_through(options.training(), prepared, options.steps())
    batches = fixed_batches(options.training(), prepared, trained.tokenizer, options.batches)
    with Pair(trained.model, "column") as pair:
        pair.set_rate(0.3)
        for index, inputs in enumerate(batches):
            seeds = range(index * options.masks, (index + 1) * options.masks)
            passes = [[pair.run(method, inputs, seed) for method in METHODS] for seed in seeds]
            for name, moments in end.moments["extra"][index].items():
                extra = [two.gradients[name] - one.gradients[name] for one, two in passes]
                rows = torch.stack(extra).double().flatten(1)
                noise = rows.var(0).sum()
                signal = rows.mean(0).square().sum() - noise / len(rows)
                torch.testing.assert_close(moments.noise[0], noise)
                torch.testing.assert_close(moments.signal[0], signal)


def test_weights_are_kept_on_the_way_and_no_example_is_in_two_batches(options):
    prepared = prepare_analysis(options)
    trained = train_through(options.training(), prepared, {0, 2, 4})
    assert list(trained.weights) == [0, 2, 4]
    parameters = lora_matrices(trained.model)
    last = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    trained.go_to(0)
    assert all(not p.any() for name, p in parameters.items() if name.endswith("lora_B"))
    trained.go_to(4)
    assert all(torch.equal(parameter, last[name]) for name, parameter in parameters.items())
    batches = fixed_batches(options.training(), prepared, trained.tokenizer, 4)
    assert [len(inputs["labels"]) for inputs in batches] == [8] * 4
    labels = torch.cat([inputs["labels"] for inputs in batches])
    assert labels.bincount().tolist() == [11, 11, 10]  # all of the 32 examples


def test_all_faults_are_reported_together(options):
    wrong = dataclasses.replace(
        options, patterns=("colum",), rates=(0.0,), masks=12, points=(0.0, 2.0), rank=0
    )
    with pytest.raises(ConfigError) as caught:
        prepare_analysis(wrong)
    faults = caught.value.faults
    assert [fault.partition(" ")[0] for fault in faults] == [
        *("patterns", "rates", "points", "masks", "rank")
    ]
    assert "did you mean 'column'?" in faults[0]
    assert "must be in (0, 1), got 0.0" in faults[1]
    assert "must be a multiple of 8, got 12" in faults[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": 5}, "at most the 32 training examples, got 5 of 8"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"points": (0.0, 0.1)}, "must fall on different steps"),
        ({"points": ()}, "points must hold a share"),
        ({"rates": ()}, "rates must hold a dropout rate"),
        ({"patterns": ()}, "patterns must hold one of"),
        ({"train_steps": 0}, "train_steps must be at least 1, got 0"),
    ],
)
def test_single_faults(options, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare_analysis(dataclasses.replace(options, **change))
