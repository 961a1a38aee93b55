"""``watch`` in a real Trainer: what the logs, the other callbacks and the checkpoints hold."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, DropoutConfig
from hiddenkey.integrations.trainer import watch
from integrations.trainers import logs, tiny_trainer
from models import PAD, batch, lora_model, plain_model, transformer_in


class Recorder(TrainerCallback):
    """Stands in for a reporter such as TensorBoard's: copies what it is shown at once."""

    def __init__(self) -> None:
        self.logs: list[dict] = []

    def on_log(self, args, state, control, logs=None, **_) -> None:
        self.logs.append(dict(logs))


def examples(task: str, count: int, tokens: int = 9) -> list[dict]:
    inputs = batch(task, "right", size=count, tokens=tokens)
    return [{name: value[row] for name, value in inputs.items()} for row in range(count)]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer(model, folder: Path, task: str = "classification", *, count: int = 24, **settings):
    defaults = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "save_steps": 3,
        "save_strategy": "steps",
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    recorder = Recorder()
    made = Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, **settings}),
        train_dataset=examples(task, count),
        eval_dataset=examples(task, 8),
        data_collator=collate,
        callbacks=[recorder],
    )
    return made, recorder


def training_logs(state) -> list[dict]:
    return [log for log in state.log_history if "loss" in log]


@pytest.mark.parametrize(
    ("family", "task", "peft"),
    [
        ("bert", "classification", True),
        ("bert", "classification", False),
        ("roberta", "regression", True),
        ("llama", "classification", True),
        ("gpt2", "causal", True),
        ("llama", "causal", False),
    ],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_loss_parts_and_shares_are_logged(family, task, peft, accumulation, tmp_path):
    model = (lora_model if peft else plain_model)(family, task)
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.2))
    made, recorder = trainer(
        model, tmp_path, task, gradient_accumulation_steps=accumulation, eval_steps=2,
        eval_strategy="steps", count=48,
    )  # fmt: skip
    watch(made, attachment)
    made.train()

    logs = training_logs(made.state)
    assert len(logs) == 3
    sites = {"attention_logits", "hidden"}
    for log in logs:
        assert {name for name in log if name.startswith("dropped/")} == {
            f"dropped/{site}" for site in sites
        }
        assert log["consistency_loss"] > 0
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)
        for site in sites:
            low = 0.1 if site.startswith("attention") else 0.17
            assert low < log[f"dropped/{site}"] < 0.3
    shown = [log for log in recorder.logs if "loss" in log]
    assert [log["task_loss"] for log in shown] == [log["task_loss"] for log in logs]
    assert [log["dropped/hidden"] for log in shown] == [log["dropped/hidden"] for log in logs]
    evaluations = [log for log in made.state.log_history if "eval_loss" in log]
    assert len(evaluations) == 3
    assert not any("task_loss" in log or "dropped/hidden" in log for log in evaluations)
    assert attachment.consistency_passes == 6 * accumulation


def test_the_order_of_watch_and_of_the_reporters_does_not_matter(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made, _ = trainer(model, tmp_path)
    watch(made, attachment)
    late = Recorder()
    made.add_callback(late)
    made.train()
    assert all("consistency_loss" in log for log in late.logs if "loss" in log)


@pytest.mark.parametrize("method", ["hiddenkey-minus", "lora"])
def test_without_a_consistency_loss_the_task_loss_is_the_loss(method, tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, method)
    made, _ = trainer(model, tmp_path)
    watch(made, attachment)
    made.train()
    for log in training_logs(made.state):
        assert log["task_loss"] == pytest.approx(log["loss"], rel=1e-3)
        assert "consistency_loss" not in log
        assert any(name.startswith("dropped/") for name in log) is (method != "lora")


def test_every_spreads_the_consistency_loss_over_the_steps(tmp_path):
    model = lora_model("bert")
    config = DropoutConfig(hiddenkey.method("hiddenkey").drops, Consistency(every=2))
    attachment = hiddenkey.attach(model, config)
    made, _ = trainer(model, tmp_path, logging_steps=1)
    watch(made, attachment)
    made.train()
    logs = training_logs(made.state)
    assert ["consistency_loss" in log for log in logs] == [True, False] * 3
    for log in logs:
        total = log["task_loss"] + log.get("consistency_loss", 0.0)
        assert total == pytest.approx(log["loss"], rel=1e-3)


@pytest.mark.parametrize("peft", [False, True], ids=["plain", "lora"])
def test_checkpoints_hold_the_configuration(peft, tmp_path):
    model = (lora_model if peft else plain_model)("bert")
    config = DropoutConfig(
        hiddenkey.method("hiddenkey", rate=0.25).drops, Consistency("js", weight=0.5), layers=(1,)
    )
    attachment = hiddenkey.attach(model, config)
    made, _ = trainer(model, tmp_path)
    watch(made, attachment)
    made.train()
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == ["checkpoint-3", "checkpoint-6"]
    for folder in folders:
        assert DropoutConfig.from_pretrained(tmp_path / folder) == config
        assert (tmp_path / folder / "hiddenkey_config.json").is_file()
        stored = "adapter_config.json" if peft else "config.json"
        assert "hiddenkey" not in (tmp_path / folder / stored).read_text()
        state = json.loads((tmp_path / folder / "trainer_state.json").read_text())
        assert state["log_history"][0]["task_loss"] > 0


def test_the_wrong_model_is_refused_before_the_first_step(tmp_path):
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey")
    made, _ = trainer(lora_model("bert"), tmp_path)
    watch(made, attachment)
    with pytest.raises(hiddenkey.AttachError, match="attach to the model that is given to Trainer"):
        made.train()
    assert made.state.global_step == 0


def test_detaching_before_training_is_refused_too(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made, _ = trainer(model, tmp_path)
    watch(made, attachment)
    attachment.detach()
    with pytest.raises(hiddenkey.AttachError, match="it was detached"):
        made.train()


def test_detaching_during_training_is_refused_too(tmp_path):
    class Detaching(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            attachment.detach()

    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made, _ = trainer(model, tmp_path)
    made.add_callback(Detaching())
    watch(made, attachment)
    with pytest.raises(
        ConsistencyError,
        match=r"^a consistency loss is configured but did not see this training step: the Trainer's"
        r" model is not the attached one, or its forward is called past its hooks; attach to the"
        r" model that is given to the Trainer$",
    ):
        made.train()


@pytest.mark.parametrize("peft", [False, True], ids=["plain", "lora"])
def test_the_inner_model_may_be_the_one_that_is_attached(peft, tmp_path):
    model = (lora_model if peft else plain_model)("bert")
    attachment = hiddenkey.attach(transformer_in(model), "hiddenkey")
    made, _ = trainer(model, tmp_path, max_steps=2)
    watch(made, attachment)
    made.train()
    log = training_logs(made.state)[-1]
    assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)


def test_label_smoothing_without_watch_is_refused(tmp_path):
    model = lora_model("bert")
    hiddenkey.attach(model, "hiddenkey")
    made, _ = trainer(model, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(
        ConsistencyError,
        match=r"this training pass got no labels; .*trainer.watch does so for label smoothing",
    ):
        made.train()


def test_watching_again_replaces_what_was_watched(tmp_path):
    model = lora_model("bert")
    made, _ = trainer(model, tmp_path, label_smoothing_factor=0.1, max_steps=2)
    for method in ("hiddenkey-js", "hiddenkey"):  # the second attach detaches the first
        watch(made, hiddenkey.attach(model, method))
    made.train()
    log = training_logs(made.state)[-1]
    assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)


def weights(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("accumulation", "count"),
    [
        pytest.param(1, 24, id="one-pass-a-step"),
        pytest.param(2, 48, id="two-passes-a-step"),
        # 5 batches an epoch: steps of 2, 2 and 1 passes
        pytest.param(2, 20, id="a-short-last-step-of-the-epoch"),
    ],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(accumulation, count, tmp_path):
    """Same weights, same passes with the loss (``every=3``), same logs after the stop."""
    config = DropoutConfig(hiddenkey.method("hiddenkey", rate=0.3).drops, Consistency(every=3))
    settings = {
        "gradient_accumulation_steps": accumulation, "logging_steps": 1, "save_steps": 3,
        "count": count,
    }  # fmt: skip

    model = lora_model("bert")
    attachment = hiddenkey.attach(model, config)
    made, _ = trainer(model, tmp_path, **settings)
    watch(made, attachment)
    made.train()
    expected, passes = weights(model), attachment.consistency_passes
    whole = training_logs(made.state)

    model = lora_model("bert")
    attachment = hiddenkey.attach(model, config)
    resumed, recorder = trainer(model, tmp_path, **settings)
    watch(resumed, attachment)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*non-tuple sequence for multidimensional.*")
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert attachment.consistency_passes == passes
    shown = [log for log in recorder.logs if "loss" in log]
    assert len(shown) == 3
    for log, wanted in zip(shown, whole[3:], strict=True):
        assert log.keys() == {k for k in wanted if k != "step"}
        for name in log:
            if name.endswith("_loss") or name == "loss" or name.startswith("dropped/"):
                assert log[name] == pytest.approx(wanted[name], rel=1e-5), name
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_training_with_activation_checkpointing_is_the_same(tmp_path):
    found = []
    for folder, checkpointing in (("off", {}), ("on", {"gradient_checkpointing": True})):
        model = lora_model("bert")
        attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
        with warnings.catch_warnings():
            # the Trainer's own use of a name that transformers is about to rename
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
            made, _ = trainer(model, tmp_path / folder, **checkpointing)
            watch(made, attachment)
            made.train()
        found.append((weights(model), training_logs(made.state)))
    assert [log["dropped/hidden"] for log in found[0][1]] == [
        log["dropped/hidden"] for log in found[1][1]
    ]
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], msg=name, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_keeps_the_parts_and_their_sum(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made, _ = trainer(model, tmp_path, bf16=True)
    watch(made, attachment)
    made.train()
    for log in training_logs(made.state):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-2)


def test_evaluation_in_the_trainer_is_that_of_the_untouched_model(tmp_path):
    model = lora_model("bert")
    made, _ = trainer(model, tmp_path)
    expected = made.evaluate()["eval_loss"]
    watch(made, hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.5)))
    assert made.evaluate()["eval_loss"] == expected
    predictions = made.predict(examples("classification", 8)).predictions
    assert predictions.shape == (8, 3)


def test_logging_at_the_start_and_the_summary_at_the_end_are_left_alone(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made, recorder = trainer(model, tmp_path, logging_first_step=True, max_steps=5)
    watch(made, attachment)
    made.train()
    logs = training_logs(made.state)
    assert [log["step"] for log in logs] == [1, 2, 4]
    for log in logs:
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)
    assert "train_runtime" in recorder.logs[-1]
    assert not any(name.startswith("dropped/") for name in recorder.logs[-1])


def test_padding_id_of_the_helper_is_the_models():
    assert plain_model("llama").config.pad_token_id == PAD


@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("roberta", "regression"), ("llama", "causal")]
)
def test_accumulating_four_times_two_trains_as_batches_of_eight(family, task, tmp_path):
    """With noise off and a divergence that is not zero: fixed masks against an inference pass."""
    from hiddenkey.framework.patterns import PATTERNS

    keep = torch.rand(1, 9, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    config = DropoutConfig((hiddenkey.Drop("hidden", "element", 0.5),), Consistency("js"))
    found, logs = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PATTERNS, "element", lambda shape, rate, visible: keep)
        for size, accumulation in ((8, 1), (2, 4)):
            model = lora_model(family, task)
            attachment = hiddenkey.attach(model, config)
            made, _ = trainer(
                model,
                tmp_path / str(size),
                task,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                logging_steps=1,
                optim="sgd",
                max_steps=3,
            )
            if task != "causal":
                # transformers 5.23 takes every classifier's mean for a sum over the whole step
                made.loss_is_scaled_for_ga = False
            watch(made, attachment)
            made.train()
            found.append(weights(model))
            logs.append(training_logs(made.state))
    for one, two in zip(*logs, strict=True):
        for name in ("loss", "task_loss", "consistency_loss"):
            assert one[name] == pytest.approx(two[name], rel=1e-4)
        assert one["consistency_loss"] > 0.01
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], msg=name, rtol=1e-4, atol=1e-6)


def test_a_trainer_that_makes_itself_another_model_is_refused(tmp_path):
    """Its logs would tell of a model that nobody trains."""
    attachment = hiddenkey.attach(lora_model("bert"), "hiddencut")
    trainer = tiny_trainer(lora_model("bert"), tmp_path)
    trainer.model_init = lambda trial=None: lora_model("bert")
    watch(trainer, attachment)
    with pytest.raises(hiddenkey.AttachError, match="attach in model_init itself"):
        trainer.train()


def test_what_model_init_attaches_acts(tmp_path):
    made = []

    def attached(trial=None):
        model = lora_model("bert")
        made.append(hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3)))
        return model

    trainer = tiny_trainer(lora_model("bert"), tmp_path)
    trainer.model_init = attached
    trainer.train()
    assert all(abs(share - 0.3) < 0.2 for share in made[-1].shares().values())


def test_a_model_that_returns_tuples_has_its_task_loss_in_the_log(tmp_path):
    model = plain_model("bert", return_dict=False)
    made = tiny_trainer(model, tmp_path)
    watch(made, hiddenkey.attach(model, "hiddenkey-minus"))
    made.train()
    assert [log["task_loss"] for log in logs(made)] == [log["loss"] for log in logs(made)]


def test_a_trainer_whose_log_keeps_nothing_is_served(tmp_path):
    shown = []

    class Own(Trainer):
        def log(self, values, *args):
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, values)
            shown.append(values)

    model = lora_model("bert")
    made = tiny_trainer(model, tmp_path, kind=Own)
    watch(made, hiddenkey.attach(model, "hiddenkey"))
    made.train()
    assert all("consistency_loss" in values for values in shown if "loss" in values)
    assert not logs(made)
