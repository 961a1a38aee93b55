"""An examination of a position passes what is right, and names exactly what is wrong."""

import dataclasses

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

import hiddenkey
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.sequence.site import SequenceSite
from hiddenkey.testing import examine_position
from models import PAD, VOCABULARY, batch, lora_model, plain_model
from testing.own_attachments import is_noisy
from testing.own_models import own_model

PLACES = [
    (position, pattern)
    for position in POSITIONS
    for pattern in PATTERNS
    if pattern not in POSITIONS[position].refused
]


@pytest.mark.parametrize(("position", "pattern"), PLACES)
def test_every_position_of_the_library_passes(position, pattern):
    build = lora_model if position == "update" else plain_model
    report = examine_position(position, build("bert", layers=1), batch(), pattern=pattern)
    assert report.passed, str(report)


def test_a_position_with_zeros_and_padding_passes():
    """Embeddings of padding are zero by themselves: whether they fell does not show."""
    model = plain_model("llama", "causal", layers=1)
    report = examine_position("input", model, batch("causal"), pattern="feature")
    assert report.passed, str(report)


@pytest.mark.parametrize("pattern", ["element", "span"])
def test_a_position_whose_layers_flatten_the_batch_passes(pattern):
    """OPT's feed-forward block sees the tokens of all sequences, one after the other."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "vocab_size": VOCABULARY}
    config = OPTConfig(**sizes, num_hidden_layers=1, num_attention_heads=4, pad_token_id=PAD)
    report = examine_position(
        "hidden", OPTForCausalLM(config), batch("causal", "right"), pattern=pattern
    )
    assert report.passed, str(report)


@pytest.fixture
def first_dense(monkeypatch):
    """A position of one's own, in the table: what leaves the first dense layer."""

    def add(name, find):
        own = dataclasses.replace(POSITIONS["hidden"], where="first dense layer", find=find)
        monkeypatch.setitem(POSITIONS, name, own)

    return add


def find_up(transformer, layers, options):
    return [
        dataclasses.replace(part, name=f"{part.name}.up", module=part.module.up) for part in layers
    ]


def test_a_position_of_ones_own_passes(first_dense):
    first_dense("up", find_up)
    report = examine_position("up", own_model(), batch(padding="none"))
    assert report.passed, str(report)
    assert [site.name for site in report.sites] == ["layers.0.up", "layers.1.up"]


def test_a_module_that_is_never_called_is_named(first_dense):
    model = own_model()
    model.layers[0].spare = torch.nn.Linear(2, 2)

    def find_spare(transformer, layers, options):
        first = layers[0]
        return [dataclasses.replace(first, name=f"{first.name}.spare", module=first.module.spare)]

    first_dense("spare", find_spare)
    report = examine_position("spare", model, batch(padding="none"))
    assert "the training pass went past layers.0.spare" in report.refusal


class Rewritten:
    """An attachment whose hook on ``layers.1.down`` follows another rule."""

    def __init__(self, model, config, rule):
        self._inner = hiddenkey.attach(model, config)
        self._rule, self._noisy = rule, is_noisy(config)
        self._handle = model.layers[1].down.register_forward_hook(self._apply)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._inner.detach()
        self._handle.remove()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def _apply(self, module, args, output):
        return self._rule(output) if module.training and self._noisy else None


class PassThrough(torch.autograd.Function):
    """Adds nothing to the values and a gradient to what fell."""

    @staticmethod
    def forward(ctx, states):
        return states * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.5


RULES = {
    "rescaled twice": (lambda states: states * 1.1, {"units", "unit gradients"}),
    "another gradient": (PassThrough.apply, {"unit gradients"}),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_fails_its_own_checks_alone(rule):
    broken, checks = RULES[rule]
    report = examine_position(
        "hidden",
        own_model(),
        batch(padding="none"),
        attach=lambda model, config: Rewritten(model, config, broken),
    )
    assert {finding.check for finding in report.failures} == checks, str(report)
    assert "layers.1.down, plain" in report.failures[0].detail


def test_noise_in_padding_is_found(monkeypatch):
    """A position that does not learn which tokens are padding drops them like others."""
    apply = SequenceSite.apply

    def forgetful(self, states):
        self.visible, self.layer_mask = lambda: None, None
        return apply(self, states)

    monkeypatch.setattr(SequenceSite, "apply", forgetful)
    report = examine_position("hidden", own_model(), batch(padding="right"))
    assert {finding.check for finding in report.failures} == {"padding units", "counting"}
    assert "units of padding tokens are dropped" in report.failures[0].detail


def test_noise_in_evaluation_is_found(monkeypatch):
    monkeypatch.setattr(SequenceSite, "is_silent", False, raising=False)

    def always(self, module, args, output):
        return self._apply(output)

    monkeypatch.setattr(SequenceSite, "_after", always)
    report = examine_position("hidden", own_model(), batch(padding="none"))
    assert "evaluation" in {finding.check for finding in report.failures}


def test_too_high_a_rate_is_found(monkeypatch):
    draw = PATTERNS["element"]

    def more(shape, rate, visible):
        return draw(shape, min(1.3 * rate, 0.9), visible)

    monkeypatch.setitem(PATTERNS, "element", more)
    report = examine_position("hidden", own_model(), batch(padding="none"))
    assert {finding.check for finding in report.failures} == {"shares"}


def test_a_model_without_the_position_is_refused():
    model = plain_model("bert")
    del model.classifier
    report = examine_position("output", model.bert, {"input_ids": batch()["input_ids"]})
    assert "no classifier or language-model head found" in report.refusal
