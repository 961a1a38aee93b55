"""Trainers whose step calls the model several times, and models inside of a script's own module."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.trainer import watch
from integrations.trainers import logs, tiny_trainer
from models import lora_model, plain_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class RDropTrainer(Trainer):
    """Two passes and their divergence in one computation of the loss (arXiv 2106.14448)."""

    losses: list[float]

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        one, two = model(**inputs), model(**inputs)
        apart = F.kl_div(one.logits.log_softmax(-1), two.logits.softmax(-1), reduction="batchmean")
        mean = (one.loss + two.loss) / 2
        if self.model.training:
            self.losses.append(mean.item())
        return (mean + apart, one) if return_outputs else mean + apart


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("divided", [True, False])
def test_the_parts_of_a_loss_of_two_passes_are_their_mean(tmp_path, accumulation, divided):
    """Whether or not Trainer takes the loss for divided by the items of an accumulated batch."""
    trainer = tiny_trainer(
        lora_model("bert"), tmp_path, kind=RDropTrainer, callbacks=[HiddenKeyCallback("hiddenkey")],
        gradient_accumulation_steps=accumulation, max_steps=2,
    )  # fmt: skip
    trainer.losses, trainer.model_accepts_loss_kwargs = [], divided
    trainer.train()
    factor = accumulation if divided else 1  # the sum, as Trainer's own loss is then
    for index, log in enumerate(logs(trainer)):
        own = trainer.losses[index * accumulation : (index + 1) * accumulation]
        whole = log["task_loss"] + log["consistency_loss"]
        assert whole == pytest.approx(factor * sum(own) / len(own), rel=2e-4)
        assert whole < log["loss"] * 1.0001


class Wrapper(nn.Module):
    """What hands its arguments to a model, in many scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain_model("bert")
        self.more = nn.Linear(3, 3)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def test_a_wrapper_around_a_model_is_told_what_to_attach_to(tmp_path):
    module = Wrapper()
    with pytest.raises(ConfigError, match=r"its module 'model' \(BertForSequence"):
        hiddenkey.attach(module, "hiddenkey")
    attachment = hiddenkey.attach(module.model, "hiddenkey")
    trainer = tiny_trainer(module, tmp_path)
    watch(trainer, attachment)
    trainer.train()
    for log in logs(trainer):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)
        assert log["dropped/hidden"] > 0


def test_a_model_of_transformers_with_another_in_it_is_no_wrapper():
    """Blip2Model has a language model inside, whose loss is not its own."""
    module = type("Blip2Model", (Wrapper,), {"__module__": "transformers.models.blip_2"})()
    with pytest.raises(ConfigError, match="got Blip2Model, whose task is not known"):
        hiddenkey.attach(module, "hiddenkey")


def test_several_models_in_a_module_are_not_chosen_among():
    module = nn.ModuleList([plain_model("bert"), plain_model("bert", seed=1)])
    with pytest.raises(ConfigError, match="got ModuleList, whose task is not known"):
        hiddenkey.attach(module, "hiddenkey")


def test_the_loss_of_passes_that_no_computation_closes_is_each_one_s():
    meter = hiddenkey.measure.LossMeter()
    values = [torch.tensor(value) for value in (1.0, 3.0, 8.0)]
    for value in values[:2]:
        meter.add(value, None)
    meter.end_computation()
    meter.end_computation()
    meter.add(values[2], None)
    meter.end_step(mean=True)
    assert meter.read() == {"task": 5.0}
    meter.end_step(mean=True)
    assert meter.read() == {}
    meter.add(values[0], None)
    meter.add(values[1], None)
    meter.end_step(mean=False)
    assert meter.read() == {"task": 4.0}
