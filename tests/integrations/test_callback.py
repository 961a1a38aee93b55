"""``HiddenKeyCallback`` in Trainer: when it attaches, what it leaves, and how trainings end."""

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

import hiddenkey
from hiddenkey import AttachError, ConfigError, Consistency, ConsistencyError, DropoutConfig
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.trainer import watch
from integrations.trainers import assert_same_weights, logs, tiny_trainer, weights
from models import lora_model, snapshot

METHOD = hiddenkey.method("hiddenkey", rate=0.2)


class Reporter(TrainerCallback):
    """Copies what it is shown, as TensorBoard's callback does."""

    def __init__(self):
        self.shown = []

    def on_log(self, args, state, control, logs=None, **_):
        self.shown.append(dict(logs))


class Failing(TrainerCallback):
    """Ends the first training after its first step."""

    def __init__(self):
        self.failed = False

    def on_step_end(self, args, state, control, **_):
        if not self.failed:
            self.failed = True
            raise KeyError("a fault of the script's")


def made(folder, *more, callback=None, model=None, **settings):
    """Return a trainer, its callback and a reporter that stands before it."""
    callback = HiddenKeyCallback("hiddenkey", rate=0.2) if callback is None else callback
    reporter = Reporter()
    model = lora_model("bert") if model is None else model
    trainer = tiny_trainer(model, folder, callbacks=[reporter, callback, *more], **settings)
    return trainer, callback, reporter


def test_a_training_is_watched_and_the_model_given_back(tmp_path):
    trainer, callback, reporter = made(tmp_path)
    before, compute_loss = snapshot(trainer.model), trainer.compute_loss
    trainer.train()
    for log in logs(trainer):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)
        assert 0.1 < log["dropped/hidden"] < 0.3
    shown = [log for log in reporter.shown if "loss" in log]
    assert [log["task_loss"] for log in shown] == [log["task_loss"] for log in logs(trainer)]
    assert attachment_of(trainer.model) is callback.attachment is None
    assert snapshot(trainer.model).keys() == before.keys()
    assert trainer.compute_loss == compute_loss
    assert "compute_loss" not in vars(trainer)
    assert DropoutConfig.from_pretrained(tmp_path) == METHOD


def test_it_trains_as_attach_and_watch_do(tmp_path):
    trainer, *_ = made(tmp_path, label_smoothing_factor=0.1)
    trainer.train()
    other = tiny_trainer(lora_model("bert"), tmp_path, label_smoothing_factor=0.1)
    attachment = hiddenkey.attach(other.model, METHOD, data_parallel_rank=0)
    watch(other, attachment)
    other.train()
    assert_same_weights(weights(trainer.model), weights(other.model), rtol=0, atol=0)
    assert [log["loss"] for log in logs(trainer)] == [log["loss"] for log in logs(other)]


def test_the_batches_do_not_depend_on_the_method(tmp_path):
    seen = {}

    def collate(rows):
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        seen.setdefault(name, []).append(batch["input_ids"])
        return batch

    for name in ("lora", "hiddenkey-minus", "hiddenkey"):
        model = lora_model("bert", lora_dropout=0.1)
        callback = HiddenKeyCallback(name)
        trainer, *_ = made(tmp_path, callback=callback, model=model, data_collator=collate,
                           max_steps=26)  # fmt: skip
        trainer.train()
        seen[name].append(torch.rand(3))  # the generator stands where it stood
    for name in ("hiddenkey-minus", "hiddenkey"):
        assert all(map(torch.equal, seen["lora"], seen[name]))


def test_a_resumed_training_ends_like_one_without_a_break(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    config = DropoutConfig(METHOD.drops, Consistency(every=2))
    whole, *_ = made(tmp_path / "whole", callback=HiddenKeyCallback(config), **settings)
    whole.train()
    stored = tmp_path / "whole" / "checkpoint-2"
    assert DropoutConfig.from_pretrained(stored) == config
    rest, *_ = made(
        tmp_path / "rest", callback=HiddenKeyCallback(config),
        restore_callback_states_from_checkpoint=True, **settings,
    )  # fmt: skip
    rest.train(resume_from_checkpoint=str(stored))
    assert_same_weights(weights(whole.model), weights(rest.model), rtol=0, atol=0)
    assert ["consistency_loss" in log for log in logs(rest)] == [True, False] * 2


def test_the_best_model_is_loaded_and_early_stopping_stops(tmp_path):
    trainer, callback, _ = made(
        tmp_path, EarlyStoppingCallback(1), max_steps=20, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True, learning_rate=30.0,
        metric_for_best_model="eval_loss",
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step < 20
    assert callback.attachment is None
    best = torch.tensor(trainer.state.best_metric)
    torch.testing.assert_close(torch.tensor(trainer.evaluate()["eval_loss"]), best)
    assert (tmp_path / "hiddenkey_config.json").exists()


def test_a_model_of_model_init_is_attached_in_each_trial(tmp_path):
    trained = []

    def model_init(trial=None):
        trained.append(lora_model("bert"))
        return trained[-1]

    callback = HiddenKeyCallback("hiddenkey", rate=0.2)
    trainer = tiny_trainer(None, tmp_path, callbacks=[callback], model_init=model_init,
                           eval_strategy="epoch")  # fmt: skip
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        n_trials=2, backend="optuna",
    )  # fmt: skip
    assert len(trained) == 3
    assert all("consistency_loss" in log for log in logs(trainer))
    assert all(attachment_of(model) is None for model in trained)


def test_several_trainings_one_after_the_other_and_after_a_failure(tmp_path):
    trainer, callback, _ = made(tmp_path, Failing())
    with pytest.raises(KeyError, match="a fault"):
        trainer.train()
    assert attachment_of(trainer.model) is callback.attachment is not None
    for _ in range(2):
        trainer.train()
        assert attachment_of(trainer.model) is callback.attachment is None
        assert all("consistency_loss" in log for log in logs(trainer))


@pytest.mark.parametrize("settings", [{"bf16": True}, {"activation_checkpointing": True}], ids=str)
def test_a_model_that_the_trainer_has_prepared(settings, tmp_path):
    trainer, *_ = made(tmp_path, **settings)
    trainer.train()
    for log in logs(trainer):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-2)
        assert 0.1 < log["dropped/hidden"] < 0.3


def test_a_model_that_is_attached_already_is_refused(tmp_path):
    trainer, *_ = made(tmp_path)
    watch(trainer, hiddenkey.attach(trainer.model, "dropkey"))
    with pytest.raises(AttachError, match="has an attachment already; leave out either attach"):
        trainer.train()
    assert attachment_of(trainer.model).config == hiddenkey.method("dropkey")


def test_two_callbacks_are_refused(tmp_path):
    trainer, *_ = made(tmp_path, HiddenKeyCallback("dropkey"))
    with pytest.raises(AttachError, match="has an attachment already"):
        trainer.train()


def test_what_does_not_fit_leaves_the_model_alone(tmp_path):
    schedule = hiddenkey.RateSchedule(warmup=0.5, positions=("input",))
    trainer, *_ = made(tmp_path, callback=HiddenKeyCallback("dropkey", schedules=[schedule]))
    with pytest.raises(ConfigError, match="input"):
        trainer.train()
    assert attachment_of(trainer.model) is None


def test_a_schedule_changes_the_rates(tmp_path):
    schedule = hiddenkey.RateSchedule(warmup=4)
    callback = HiddenKeyCallback("dropkey", rate=0.4, schedules=[schedule], per_layer=True)
    trainer, *_ = made(tmp_path, callback=callback, max_steps=4)
    trainer.train()
    rates = [log["rate/attention_logits"] for log in logs(trainer)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert "dropped/attention_logits/1" in logs(trainer)[-1]


def test_a_method_brings_its_own_schedule(tmp_path):
    trainer, *_ = made(tmp_path, callback=HiddenKeyCallback("coto"), max_steps=4)
    trainer.train()
    found = [log["rate/update"] for log in logs(trainer)]
    assert found == pytest.approx([0.9, 0.6, 0.3, 0.0], abs=1e-6)


def test_a_caller_that_is_no_trainer_is_told(tmp_path):
    trainer, callback, _ = made(tmp_path)
    with pytest.raises(AttachError, match="was called by no Trainer of transformers"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("hiddenky",), "did you mean 'hiddenkey'"),
        (("hiddenkey", 2.0), "rate must be in"),
        ((METHOD, 0.1), "got them with a DropoutConfig"),
        ((3,), "must be a method's name or a DropoutConfig, got 3"),
    ],
    ids=["name", "rate", "both", "type"],
)
def test_wrong_arguments_are_told_at_once(given, message):
    with pytest.raises(ConfigError, match=message):
        HiddenKeyCallback(*given)


def test_a_site_that_no_pass_reached_is_an_error_in_the_log(tmp_path, caplog):
    trainer, callback, _ = made(tmp_path, callback=HiddenKeyCallback("dropkey"))

    class SilencesOne(TrainerCallback):
        """Stands for a training that never runs one of the layers."""

        def on_step_begin(self, args, state, control, **_):
            for counter in (callback.attachment._counters["attention_logits/1"],):
                counter.read()

        def on_step_end(self, args, state, control, **_):
            callback.attachment._counters["attention_logits/1"].read()

    trainer.add_callback(SilencesOne())
    trainer.callback_handler.callbacks.insert(0, trainer.callback_handler.callbacks.pop())
    trainer.train()
    (error,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert error.startswith("no training pass reached attention_logits/1 (")
    assert "attention_logits/0" not in error


def test_trls_trainer_trains_on_the_consistency_loss(tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed")
    from integrations.test_trl import SFTTrainer, make_trainer

    trainer = make_trainer(SFTTrainer, lora_model("llama", "causal"), tmp_path)
    trainer.add_callback(HiddenKeyCallback("hiddenkey", rate=0.3))
    trainer.train()
    for log in logs(trainer):
        assert log["consistency_loss"] > 0.01
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)
    assert "compute_loss" not in vars(trainer)


def test_a_trainer_that_compares_log_probabilities_is_refused(tmp_path):
    trainer, *_ = made(tmp_path)
    trainer.args.disable_dropout = False
    with pytest.raises(ConsistencyError, match="needs deterministic log-probabilities"):
        trainer.train()
    assert attachment_of(trainer.model) is None
