"""Networks without attention: the user names the modules whose outputs drop."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from transformers.modeling_outputs import SequenceClassifierOutput

import hiddenkey
from hiddenkey import AttachError, ConfigError, Drop, DropoutConfig
from hiddenkey.sequence.drop import draw_map, draw_sequence
from hiddenkey.testing import examine_model

RATE = 0.2
PATTERNS = ("element", "column", "span", "feature")


class Convolutional(nn.Module):
    """Two convolutions, a mean over the map and a classifier."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 6, 3, padding=1), nn.Tanh()
        )
        self.classifier = nn.Linear(6, 3)

    def forward(self, pixels, labels=None):
        logits = self.classifier(self.body(pixels).mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Recurrent(nn.Module):
    """Embeddings, a recurrent layer, the mean over the tokens that are no padding."""

    def __init__(self, packed=False):
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.encoder = nn.GRU(4, 6, batch_first=True)
        self.classifier = nn.Linear(6, 3)
        self.packed = packed

    def forward(self, input_ids, attention_mask, labels=None):
        states, visible = self.embed(input_ids), attention_mask.unsqueeze(-1).to(torch.float64)
        if self.packed:
            states = pack_padded_sequence(
                states, attention_mask.sum(1), batch_first=True, enforce_sorted=False
            )
        states, _ = self.encoder(states)
        logits = self.classifier((states * visible).sum(1) / visible.sum(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


LABELS = torch.arange(6) % 3
IMAGES = {"pixels": torch.randn(6, 1, 8, 8, dtype=torch.float64), "labels": LABELS}
TEXTS = {
    "input_ids": torch.randint(20, (6, 9)),
    "attention_mask": (torch.arange(9) < torch.tensor([[9], [5], [7], [9], [2], [8]])).long(),
    "labels": LABELS,
}


def config(pattern, modules, **changes):
    return DropoutConfig((Drop("hidden", pattern, RATE),), hidden_modules=modules, **changes)


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_convolutional_network_computes_what_the_equation_says(pattern):
    """In float64, with the masks of the same seed put in by hand: loss and every gradient."""
    torch.manual_seed(0)
    model = Convolutional().double()
    with hiddenkey.attach(model, config(pattern, r"body\.[13]")) as attachment:
        assert [site.name for site in attachment.sites] == ["body.1", "body.3"]
        torch.manual_seed(1)
        loss = model(**IMAGES).loss
        found = gradients(model, loss)
        shares = list(attachment.shares().values())
    torch.manual_seed(1)
    states, dropped = IMAGES["pixels"], []
    for index in (0, 2):
        states = model.body[index](states).tanh()
        keep = draw_map(pattern, RATE, states).expand_as(states)
        dropped.append((~keep).double().mean().item())
        states = states * keep / (1 - RATE)
    by_hand = F.cross_entropy(model.classifier(states.mean((2, 3))), LABELS)
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    for one, other in zip(found, gradients(model, by_hand), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
    assert shares == pytest.approx(dropped, rel=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_recurrent_network_computes_what_the_equation_says(pattern):
    torch.manual_seed(0)
    model = Recurrent().double()
    visible = TEXTS["attention_mask"].bool()
    with hiddenkey.attach(model, config(pattern, "encoder")) as attachment:
        torch.manual_seed(1)
        loss = model(**TEXTS).loss
        found = gradients(model, loss)
        share = attachment.shares()["hidden/0"]
    states, _ = model.encoder(model.embed(TEXTS["input_ids"]))
    torch.manual_seed(1)
    keep = draw_sequence(pattern, RATE, states, visible).expand_as(states)
    mean = (states * keep / (1 - RATE))[visible].split(visible.sum(1).tolist())
    by_hand = F.cross_entropy(
        model.classifier(torch.stack([tokens.mean(0) for tokens in mean])), LABELS
    )
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    for one, other in zip(found, gradients(model, by_hand), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
    assert share == pytest.approx((~keep)[visible].double().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("model", "batch", "modules"),
    [(Convolutional(), IMAGES, r"body\.[13]"), (Recurrent(), TEXTS, "embed|encoder")],
)
def test_it_passes_every_check_of_a_model_of_one_s_own(model, batch, modules):
    report = examine_model(model.double(), batch, config=config("span", modules))
    assert report.passed, str(report)


def test_the_model_s_own_dropout_goes_off_and_comes_back():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.3), nn.LSTM(4, 4, 2, dropout=0.4))
    with hiddenkey.attach(model, config("element", "0")) as attachment:
        assert (model[1].p, model[2].dropout) == (0.0, 0.0)
        assert "0.3 in 1 and 0.4 in 1 places" in str(attachment)
    assert (model[1].p, model[2].dropout) == (0.3, 0.4)


def test_layers_are_the_named_modules_in_their_order():
    model = Convolutional()
    with hiddenkey.attach(model, config("element", r"body\.\d", layers=(1, 3))) as attachment:
        assert [site.name for site in attachment.sites] == ["body.1", "body.3"]
    with hiddenkey.attach(model, config("element", r"body\.\d")) as attachment:
        assert [site.layer for site in attachment.sites] == [0, 1, 2, 3]


def test_without_a_pattern_the_network_is_refused():
    with pytest.raises(AttachError, match=r"name the modules whose outputs drop with Dropout"):
        hiddenkey.attach(Convolutional(), config("element", None))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("hiddenkey-minus", "so it has no keys to drop"),
        ("dropkey", "so it has no keys to drop"),
        ("cutoff", "let hidden_modules match the module that embeds"),
        ("update-dropout", "position 'update' is an adapter in the layers of a transformer"),
    ],
)
def test_positions_without_a_counterpart_are_refused_with_the_reason(method, why):
    wanted = dataclasses.replace(hiddenkey.method(method), hidden_modules="encoder")
    with pytest.raises(AttachError, match=why):
        hiddenkey.attach(Recurrent(), wanted)


def test_a_consistency_loss_is_refused_where_no_task_is_known():
    wanted = dataclasses.replace(hiddenkey.method("hiddenkey"), hidden_modules="encoder")
    with pytest.raises(ConfigError, match="got Recurrent, whose task is not known"):
        hiddenkey.attach(Recurrent(), wanted)


def test_what_enters_the_classifier_is_a_position_here_too():
    wanted = dataclasses.replace(hiddenkey.method("output-dropout"), hidden_modules="encoder")
    with hiddenkey.attach(Recurrent().double(), wanted) as attachment:
        assert [site.name for site in attachment.sites] == ["classifier"]


def test_a_packed_sequence_is_refused():
    model = Recurrent(packed=True).double()
    with (
        hiddenkey.attach(model, config("element", "encoder")),
        pytest.raises(AttachError, match="give it padded tensors and an attention_mask"),
    ):
        model(**TEXTS)


def test_a_name_that_no_module_has_is_told_with_those_that_there_are():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    config = DropoutConfig((Drop("hidden", "span", 0.1),), hidden_modules="features")
    with pytest.raises(
        AttachError, match="hidden_modules='features' matches; name some of '0', '1'"
    ):
        hiddenkey.attach(network, config)
