"""Mixup of embeddings, derived again from its equation, and in whole runs."""

from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hiddenkey import ConfigError
from hiddenkey.lab.run.mixup import Mixup
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train
from lab.run.test_training import Stop, adapter, assert_same_weights, lines

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SIZES = {
    "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
ALPHA = 0.5


def classifier(outputs):
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_labels=outputs, **SIZES)).double().train()


def batch(outputs):
    torch.manual_seed(1)
    targets = torch.randn(3).double() if outputs == 1 else torch.tensor([0, 2, 1])
    tokens = torch.randint(1, 30, MASK.shape) * MASK
    return {"input_ids": tokens, "attention_mask": MASK, "labels": targets}


def mixed_loss(model, outputs, share, order):
    """The loss of the equation, by a pass on embeddings that were mixed by hand."""
    given = batch(outputs)
    embedded = model.get_input_embeddings()(given["input_ids"])
    logits = model(
        inputs_embeds=share * embedded + (1 - share) * embedded[order],
        attention_mask=((MASK + MASK[order]) > 0).long(),
    ).logits
    if outputs == 1:
        return sum(
            part * ((logits[:, 0] - given["labels"][chosen]) ** 2).mean()
            for part, chosen in ((share, torch.arange(3)), (1 - share, order))
        )
    log_p = logits.log_softmax(-1)
    rows, y = torch.arange(3), given["labels"]
    return -(share * log_p[rows, y] + (1 - share) * log_p[rows, y[order]]).mean()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradients_are_those_of_the_equation(outputs, seed):
    model = classifier(outputs)
    torch.manual_seed(seed)
    order = torch.randperm(3)
    share = float(torch.distributions.Beta(ALPHA, ALPHA).sample())
    wanted = mixed_loss(model, outputs, share, order)
    expected = torch.autograd.grad(wanted, list(model.parameters()))
    given = batch(outputs)
    torch.manual_seed(seed)
    with Mixup(ALPHA, regression=outputs == 1).on(model):
        found = model(**given).loss
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(found, list(model.parameters()))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


def test_nothing_is_mixed_in_evaluation_without_labels_or_afterwards():
    model = classifier(3)
    given = batch(3)
    unlabelled = {name: value for name, value in given.items() if name != "labels"}
    plain, logits = model(**given).loss, model(**unlabelled).logits
    with Mixup(ALPHA, regression=False).on(model):
        assert torch.equal(model(**unlabelled).logits, logits)
        assert torch.equal(model.eval()(**given).loss, plain)
        torch.manual_seed(2)  # a draw that moves the examples
        assert not torch.equal(model.train()(**given).loss, plain)
    assert torch.equal(model(**given).loss, plain)


def test_a_pass_that_an_exception_leaves_mixes_nothing_afterwards():
    model = classifier(3)
    given = batch(3)
    with Mixup(ALPHA, regression=False).on(model):
        with pytest.raises(IndexError):
            model(**{**given, "input_ids": given["input_ids"] + 100})
        embedded = model.get_input_embeddings()(given["input_ids"])
    assert torch.equal(embedded, model.get_input_embeddings()(given["input_ids"]))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_run_with_mixup_goes_on_exactly(tiny_options, tmp_path, kind):
    options = replace(
        tiny_options, method="lora", adapter=kind, rank=8 if kind == "ia3" else 4, mixup_alpha=1.0
    )
    train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(5)])
    train(replace(options, resume=True))
    assert_same_weights(adapter(tmp_path / "whole"), adapter(options.output), rtol=0, atol=0)
    plain = replace(options, mixup_alpha=0.0, output=str(tmp_path / "plain"))
    train(plain)
    assert lines(options.output)[0]["train_loss"] != lines(plain.output)[0]["train_loss"]


def test_noise_falls_on_what_is_mixed(tiny_options):
    options = replace(tiny_options, method="hiddenkey-minus", rate=0.5, mixup_alpha=1.0)
    train(options)
    for share in lines(options.output)[-1]["dropped"].values():
        assert share == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup_alpha": -1.0}, "mixup_alpha must be at least 0"),
        ({"method": "hiddenkey"}, "method 'hiddenkey' adds a loss on the example itself"),
        ({"method": "label-smoothing"}, "adds a loss on the example itself"),
        ({"task": "completion"}, "mixup_alpha is for classification and regression, got 1 with"),
        ({"adapter": "prefix"}, "mixup_alpha is for the adapters lora and dora and ia3 and full"),
    ],
    ids=str,
)
def test_what_cannot_be_mixed_is_refused(tiny_options, changes, message):
    with pytest.raises(ConfigError, match=message):
        prepare(replace(tiny_options, **{"mixup_alpha": 1.0, "method": "lora", **changes}))
