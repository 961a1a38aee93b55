"""Sentence embeddings: drops under a stand-in for sentence-transformers' model and trainer.

The package is not installed here. Of its interface this has what matters to a method: the model is
an ``nn.Sequential`` whose modules hand a dictionary of features on, and the trainer's loss calls
the model once for each column of texts.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, Trainer

import hiddenkey
from hiddenkey.errors import AttachError
from hiddenkey.integrations.trainer import watch
from integrations.trainers import tiny_trainer
from models import VOCABULARY, batch, configuration, seeded

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
SPANS = hiddenkey.method("cutoff", rate=0.3)


class Encoder(nn.Module):
    """Its module of tokens, which in version 6 calls the model's ``forward`` and so no hook."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {name: features[name] for name in ("input_ids", "attention_mask")}
        return {**features, "token_embeddings": self.model.forward(**given).last_hidden_state}


class MeanPooling(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        seen = features["attention_mask"][..., None].float()
        mean = (features["token_embeddings"] * seen).sum(1) / seen.sum(1)
        return {**features, "sentence_embedding": mean}


class Normalisation(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        unit = nn.functional.normalize(features["sentence_embedding"])
        return {**features, "sentence_embedding": unit}


class RankingLoss(nn.Module):
    """Cross-entropy of each text with the other column's, in which its own is right."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, columns: list[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        ones, others = (self.model(column)["sentence_embedding"] for column in columns)
        return nn.functional.cross_entropy(20 * ones @ others.T, torch.arange(len(ones)))


class EmbeddingTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Any:
        columns: dict[str, dict[str, Tensor]] = {}
        for name, value in inputs.items():
            column, _, feature = name.partition("_")
            columns.setdefault(column, {})[feature] = value
        loss = RankingLoss(model)(list(columns.values()), None)
        return (loss, {}) if return_outputs else loss


def encoder(family: str = "bert") -> Any:
    with seeded(0):
        return AutoModel.from_config(configuration(family)).train()


def pipeline(family: str = "bert") -> nn.Sequential:
    return nn.Sequential(Encoder(encoder(family)), MeanPooling(), Normalisation()).train()


def texts() -> dict[str, Tensor]:
    return {name: value for name, value in batch().items() if name != "labels"}


@pytest.mark.parametrize("noise", [NOISE, SPANS], ids=["hiddenkey-minus", "cutoff"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_pipeline_drops_what_its_encoder_drops_with_the_batchs_padding(family, noise):
    """The encoder is called with its mask, the pipeline with a dictionary."""
    inputs, model, alone = texts(), pipeline(family), encoder(family)
    attachment = hiddenkey.attach(model, noise)
    direct = hiddenkey.attach(alone, noise)
    with seeded(1):
        found = model(inputs)["sentence_embedding"]
    with seeded(1):
        tokens = alone(**inputs).last_hidden_state
    pooled = MeanPooling()({**inputs, "token_embeddings": tokens})
    expected = Normalisation()(pooled)["sentence_embedding"]
    assert torch.equal(found, expected)
    assert attachment.shares() == {
        key: pytest.approx(share) for key, share in direct.shares().items()
    }
    model.eval()
    assert not torch.allclose(model(inputs)["sentence_embedding"], found, atol=1e-3)


def test_an_attachment_to_the_encoder_alone_is_gone_past_and_says_so():
    model = pipeline()
    hiddenkey.attach(model[0].model, NOISE)
    with pytest.raises(AttachError, match="this training pass goes around the call of BertModel"):
        model(texts())


def test_the_same_text_in_two_columns_gets_other_masks_and_evaluation_none():
    inputs, model = texts(), pipeline()
    before = model.eval()(inputs)["sentence_embedding"]
    hiddenkey.attach(model, NOISE)
    assert torch.equal(model(inputs)["sentence_embedding"], before)
    one, other = (model.train()(inputs)["sentence_embedding"] for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_trainer_logs_what_was_dropped_in_both_columns(tmp_path):
    inputs = batch(size=48)
    rows = [
        {f"{c}_{n}": inputs[n][r] for c in ("one", "two") for n in ("input_ids", "attention_mask")}
        for r in range(48)
    ]
    model = pipeline()
    before = {name: value.clone() for name, value in model.named_parameters()}
    attachment = hiddenkey.attach(model, NOISE)
    own = {"remove_unused_columns": False, "learning_rate": 1e-2}
    trainer = tiny_trainer(model, tmp_path, kind=EmbeddingTrainer, train_dataset=rows, **own)
    watch(trainer, attachment)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    for log in logs:
        assert {"dropped/attention_logits", "dropped/hidden"} <= log.keys()
        assert log["dropped/hidden"] == pytest.approx(0.4, abs=0.06)
    moved = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert any("layer.0" in name for name in moved)


def test_a_consistency_loss_is_refused_with_what_compares_two_passes_instead():
    model = pipeline()
    with pytest.raises(hiddenkey.ConfigError, match="got Sequential, whose task is not known; set"):
        hiddenkey.attach(model, "hiddenkey")
    hiddenkey.attach(model, NOISE)
    loss = RankingLoss(model)
    torch.manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (4, 6))
    column = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    noisy = loss([column, column], None)
    quiet = RankingLoss(model.eval())([column, column], None)
    assert noisy > quiet + 1e-3
