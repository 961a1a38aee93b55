"""``step_cost`` in Trainer: one number in the log, and the same training as without."""

import warnings

import pytest
import torch

import hiddenkey
from hiddenkey import RateSchedule
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.first_step import FirstStep
from hiddenkey.integrations.trainer import watch
from integrations.trainers import tiny_trainer
from models import lora_model

pytest.importorskip("trl", reason="TRL is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import SFTTrainer

    from integrations.test_trl import make_trainer


def own_loss(output, labels, **_):
    return torch.nn.functional.cross_entropy(output.logits, labels)


RATE = 0.3
OPTIONS = {
    "hiddenkey": ("hiddenkey", {}),
    "hiddenkey-minus": ("hiddenkey-minus", {}),
    "temporal": ("temporal", {}),
    "label smoothing": ("hiddenkey", {"label_smoothing_factor": 0.1}),
    "own loss": (
        "hiddenkey",
        {"compute_loss_func": own_loss},
    ),
    "accumulated": ("hiddenkey", {"gradient_accumulation_steps": 2}),
    "checkpointing": ("hiddenkey", {"gradient_checkpointing": True}),
    "half precision": ("hiddenkey", {"bf16": True}),
}


def config(name):
    found = hiddenkey.method(name)
    return hiddenkey.method(name, rate=RATE) if found.drops else found


def logs(folder, name, settings, *, step_cost, schedules=()):
    """Train three steps; return the logs, and the weights at the end."""
    model = lora_model("bert")
    callback = HiddenKeyCallback(config(name), step_cost=step_cost, schedules=schedules)
    trainer = tiny_trainer(model, folder, callbacks=[callback], **settings)
    trainer.train()
    times = ("_runtime", "_per_second")
    found = [
        {key: value for key, value in each.items() if not key.endswith(times)}
        for each in trainer.state.log_history
    ]
    return found, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_training_is_the_same_and_its_first_log_says_the_cost(case, tmp_path, caplog):
    name, settings = OPTIONS[case]
    plain, weights = logs(tmp_path / "plain", name, settings, step_cost=False)
    with caplog.at_level("INFO", "hiddenkey"):
        ours, own = logs(tmp_path / "ours", name, settings, step_cost=True)
    assert ["step_cost" in each for each in ours] == [True, False, False, False]
    assert 0.2 < ours[0].pop("step_cost") < 20
    assert ours == plain
    assert all(torch.equal(own[key], weights[key]) for key in weights)
    assert caplog.text.count("times as long as without the method's noise and loss") == 1


def test_a_schedule_that_begins_at_nothing_is_measured_at_the_configured_rates(
    tmp_path, monkeypatch
):
    rates = []
    real = hiddenkey.Attachment.step_cost

    def seen(self, loss, **settings):
        rates.append(self.rates)
        return real(self, loss, **settings)

    monkeypatch.setattr(hiddenkey.Attachment, "step_cost", seen)
    schedules = (RateSchedule(warmup=2),)
    logged, _ = logs(tmp_path, "hiddenkey-minus", {}, step_cost=True, schedules=schedules)
    assert set(rates[0].values()) == {RATE}
    assert logged[0]["rate/hidden"] == 0


def test_watch_measures_too(tmp_path):
    model = lora_model("bert")
    trainer = tiny_trainer(model, tmp_path)
    watch(trainer, hiddenkey.attach(model, config("hiddenkey")), step_cost=True)
    trainer.train()
    found = [each for each in trainer.state.log_history if "step_cost" in each]
    assert len(found) == 1


@pytest.mark.parametrize("name", ["hiddenkey", "hiddenkey-minus", "temporal"])
def test_sft_is_measured_and_its_metrics_stay(name, tmp_path):
    found = []
    for step_cost in (False, True):
        model = lora_model("llama", "causal")
        trainer = make_trainer(SFTTrainer, model, tmp_path / str(step_cost))
        watch(trainer, hiddenkey.attach(model, config(name)), step_cost=step_cost)
        trainer.train()
        found.append([dict(each) for each in trainer.state.log_history[:3]])
    plain, ours = found
    assert ours[0].pop("step_cost") > 0
    for one, other in zip(plain, ours, strict=True):
        assert {k: v for k, v in one.items() if "runtime" not in k} == {
            k: v for k, v in other.items() if "runtime" not in k
        }


def test_sharded_weights_are_left_alone(tmp_path, caplog, monkeypatch):
    model = lora_model("bert")
    trainer = tiny_trainer(model, tmp_path)
    measuring = FirstStep(trainer, hiddenkey.attach(model, config("hiddenkey")))
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with caplog.at_level("INFO", "hiddenkey"):
        measuring.measure(model, lambda: None)
    assert measuring.read() is None
    assert "was not measured: weights are sharded" in caplog.text


def test_an_error_without_words_is_said_by_its_kind(tmp_path, caplog):
    model = lora_model("bert")
    measuring = FirstStep(tiny_trainer(model, tmp_path), hiddenkey.attach(model, "hiddenkey"))

    def fails():
        raise RuntimeError

    with caplog.at_level("INFO", "hiddenkey"):
        measuring.measure(model, fails)
    assert "was not measured: RuntimeError" in caplog.text
