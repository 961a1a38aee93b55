"""The mean of the weights in Trainer: evaluations, checkpoints, resuming and the end."""

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hiddenkey import AttachError, ConfigError, Inference
from hiddenkey.integrations.averaging import PREFIX, AveragingCallback
from hiddenkey.integrations.callback import HiddenKeyCallback
from integrations.trainers import assert_same_weights, examples, tiny_trainer, weights
from models import batch, lora_model, plain_model, seeded

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

AVERAGE, EMA = Inference("average"), Inference("ema", decay=0.7)
RULES = pytest.mark.parametrize("rule", [AVERAGE, EMA], ids=["average", "ema"])


class Seen(TrainerCallback):
    """Records the weights after each step; ends the training after one, if told so."""

    def __init__(self, stop=None):
        self.trajectory, self.stop = [], stop

    def on_step_end(self, args, state, control, model=None, **_):
        self.trajectory.append({n: w.double() for n, w in weights(model).items()})
        if state.global_step == self.stop:
            control.should_training_stop = True


class Predictions(Dataset):
    """Evaluation examples; the weights at the time that they are asked for are written down."""

    def __init__(self, model):
        self.model, self.rows, self.seen = model, examples("classification", 8), []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index == 0:
            self.seen.append({n: w.double() for n, w in weights(self.model).items()})
        return self.rows[index]


def made(folder, rule, *more, model=None, method="hiddenkey", **settings):
    with seeded(3):
        model = lora_model("bert") if model is None else model
    callback, seen = HiddenKeyCallback(method, inference=rule), Seen(settings.pop("stop", None))
    defaults = {"max_steps": 8, "optim": "adamw_torch", "logging_steps": 4}
    trainer = tiny_trainer(
        model, folder, callbacks=[callback, seen, *more], **{**defaults, **settings}
    )
    return trainer, callback, seen


def mean(rule, trajectory, steps=8):
    own = trajectory[rule.first(steps) - 1 :]
    shares = [1.0] * len(own)
    if rule.weights == "ema":
        shares = [rule.decay ** (len(own) - t) for t in range(1, len(own) + 1)]
    return {
        name: sum(s * each[name] for s, each in zip(shares, own, strict=True)) / sum(shares)
        for name in own[0]
    }


def wide(model):
    return {n: w.double() for n, w in weights(model).items()}


@RULES
def test_the_model_ends_with_the_mean_and_gives_the_last_weights_back(rule, tmp_path):
    trainer, callback, seen = made(tmp_path, rule, gradient_accumulation_steps=2)
    trainer.train()
    assert len(seen.trajectory) == 8
    assert_same_weights(wide(trainer.model), mean(rule, seen.trajectory), rtol=1e-5, atol=1e-6)
    assert "evaluation_loop" not in vars(trainer)
    callback.averaging.average.restore()
    assert_same_weights(wide(trainer.model), seen.trajectory[-1], rtol=0, atol=0)


def test_training_is_as_without_a_mean(tmp_path):
    found = []
    for rule in (AVERAGE, "last"):
        trainer, _, seen = made(tmp_path, rule, eval_strategy="steps", eval_steps=2)
        trainer.train()
        found.append(seen.trajectory)
    for one, other in zip(*found, strict=True):
        assert_same_weights(one, other, rtol=0, atol=0)


@RULES
def test_evaluations_see_the_mean_of_their_step(rule, tmp_path):
    with seeded(3):
        model = lora_model("bert")
    data = Predictions(model)
    trainer, _, seen = made(tmp_path, rule, model=model, eval_strategy="steps", eval_steps=2)
    trainer.eval_dataset = data
    trainer.train()
    assert len(data.seen) == 4
    begun = rule.first(8)
    for step, found in zip((2, 4, 6, 8), data.seen, strict=True):
        counted = seen.trajectory[:step]
        expected = mean(rule, counted) if step >= begun else counted[-1]
        assert_same_weights(found, expected, rtol=1e-5, atol=1e-6)


@RULES
def test_a_resumed_training_ends_bit_equal(rule, tmp_path):
    whole, *_ = made(tmp_path / "whole", rule)
    whole.train()
    for at in (3, 6):  # before and after the average begins
        folder = tmp_path / str(at)
        broken, *_ = made(folder, rule, save_strategy="steps", save_steps=at, stop=at)
        broken.train()
        resumed, _, seen = made(folder, rule)
        resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{at}"))
        assert len(seen.trajectory) == 8 - at
        assert_same_weights(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_a_checkpoint_has_the_last_weights_and_the_mean_beside_them(tmp_path):
    trainer, _, seen = made(tmp_path, EMA, save_strategy="steps", save_steps=4)
    trainer.train()
    folder = tmp_path / "checkpoint-4"
    with seeded(3):
        base = plain_model("bert")
    loaded = PeftModel.from_pretrained(base, folder, is_trainable=True)
    assert_same_weights(wide(loaded), seen.trajectory[3], rtol=0, atol=0)
    stored = {n: w.double() for n, w in load_file(folder / f"{PREFIX}ema.safetensors").items()}
    assert_same_weights(stored, mean(EMA, seen.trajectory[:4]), rtol=1e-5, atol=1e-6)


def test_what_is_saved_at_the_end_loads_in_plain_peft_to_the_mean(tmp_path):
    trainer, _, seen = made(tmp_path, AVERAGE)
    trainer.train()
    trainer.save_model(tmp_path / "out")
    with seeded(3):
        base = plain_model("bert")
    loaded = PeftModel.from_pretrained(base, tmp_path / "out", is_trainable=True)
    assert_same_weights(wide(loaded), mean(AVERAGE, seen.trajectory), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        inputs = batch("classification", "right")
        expected = trainer.model.eval()(**inputs).logits
        assert torch.equal(loaded.eval()(**inputs).logits, expected)


@RULES
def test_the_best_model_is_the_mean_that_its_evaluation_saw(rule, tmp_path):
    trainer, _, seen = made(
        tmp_path, rule, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=0.1,
    )  # fmt: skip
    trainer.train()
    best = int(trainer.state.best_model_checkpoint.rpartition("-")[2])
    counted = seen.trajectory[:best]
    expected = mean(rule, counted) if best >= rule.first(8) else counted[-1]
    assert_same_weights(wide(trainer.model), expected, rtol=1e-5, atol=1e-6)
    losses = {
        log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log
    }
    assert trainer.evaluate()["eval_loss"] == losses[best] == min(losses.values())


def test_a_checkpoint_without_the_mean_is_refused(tmp_path):
    trainer, *_ = made(tmp_path, "last", save_strategy="steps", save_steps=4)
    trainer.train()
    other, *_ = made(tmp_path, EMA)
    with pytest.raises(ConfigError, match=r"mean_ema.safetensors must hold .* begin anew"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_training_of_another_length_is_refused(tmp_path):
    trainer, *_ = made(tmp_path, AVERAGE, save_strategy="steps", save_steps=4, stop=4)
    trainer.train()
    longer, *_ = made(tmp_path, AVERAGE, max_steps=12)
    with pytest.raises(ConfigError, match=r"'first': 5.*'first': 7.*number of steps of before"):
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_training_that_ends_early_leaves_the_last_weights_and_says_so(tmp_path, caplog):
    trainer, _, seen = made(tmp_path, AVERAGE, stop=3, method="lora")
    with caplog.at_level("INFO", logger="hiddenkey"):
        trainer.train()
    assert_same_weights(wide(trainer.model), seen.trajectory[-1], rtol=0, atol=0)
    assert "the last weights are used" in caplog.text


def test_fsdp_is_refused():
    trainer = SimpleNamespace(model=lora_model("bert"), is_fsdp_enabled=True)
    state = SimpleNamespace(max_steps=8, global_step=0)
    with pytest.raises(AttachError, match="FSDP shards the weights"):
        AveragingCallback(trainer, EMA).on_train_begin(None, state, None)


def test_wrong_names_are_told_when_the_callback_is_made():
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        HiddenKeyCallback("lora", inference="averages")


def test_an_evaluation_loop_of_the_scripts_own_runs_and_stays(tmp_path):
    trainer, callback, _ = made(tmp_path, EMA, eval_strategy="steps", eval_steps=4)
    plain, seen = trainer.evaluation_loop, []

    def own(*given, **named):
        seen.append(callback.averaging.average.count)
        return plain(*given, **named)

    trainer.evaluation_loop = own
    trainer.train()
    trainer.evaluate()
    assert seen == [4, 8, 8]
    assert vars(trainer)["evaluation_loop"] is own


def test_trials_of_a_search_keep_their_means_in_their_own_checkpoints(tmp_path):
    """Their folders are inside of ``output_dir``; the best one's mean is loaded at the end."""
    (tmp_path / "checkpoint-2").mkdir()  # of an earlier run, which no trial may write into
    callback, trained = HiddenKeyCallback("lora", inference="average"), []

    def model_init():
        trained.append(lora_model("bert"))
        return trained[-1]

    trainer = tiny_trainer(
        None, tmp_path, model_init=model_init, callbacks=[callback],
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True,
    )  # fmt: skip
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)},
        n_trials=1, backend="optuna",
    )  # fmt: skip
    names = {path.parent.name for path in (tmp_path / "run-0").glob(f"*/{PREFIX}*")}
    assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    assert not list((tmp_path / "checkpoint-2").iterdir())
    best = load_file(callback.averaging.file(trainer.state.best_model_checkpoint))
    assert_same_weights(weights(trained[-1]), best)
