"""TRL's trainers that compare log-probabilities: no consistency loss, and dropout as they say."""

import warnings

import pytest

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, DropoutConfig
from hiddenkey.framework.schedule import RateSchedule
from hiddenkey.integrations.trainer import watch
from models import lora_model, plain_model

pytest.importorskip("trl", reason="TRL is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trl
    from datasets import Dataset

    from integrations.test_trl import tokenizer
    from integrations.trainers import arguments, logs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3).drops
PAIRS = [
    {"prompt": f"w{n} w{n + 1}", "chosen": f" w{n + 2} w9", "rejected": f" w{n + 3}"}
    for n in range(4, 20)
]
MARKED = [
    {"prompt": f"w{n} w{n + 1}", "completion": f" w{n + 2} w9", "label": n % 2 == 0}
    for n in range(4, 20)
]
SHORT = {"max_completion_length": 4, "num_generations": 2}


def length(completions, **_):
    return [float(len(set(text))) for text in completions]


KINDS = {
    "DPO": (PAIRS, {}, {}),
    "KTO": (MARKED, {}, {}),
    "GRPO": (PAIRS, SHORT, {"reward_funcs": length}),
    "RLOO": (PAIRS, SHORT, {"reward_funcs": length}),
    "Reward": (PAIRS, {}, {}),
}
LOG_PROBABILITIES = [kind for kind in KINDS if kind != "Reward"]


def build(kind, folder, *, model=None, **settings):
    rows, own, more = KINDS[kind]
    settings = {"bf16": False, "gradient_checkpointing": False, **own, **settings}
    task = "regression" if kind == "Reward" else "causal"
    return getattr(trl, f"{kind}Trainer")(
        model=lora_model("llama", task) if model is None else model,
        args=getattr(trl, f"{kind}Config")(**arguments(folder, **settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        **more,
    )


def losses(trainer):
    trainer.train()
    return [log["loss"] for log in logs(trainer)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_consistency_loss_is_refused_when_watching(kind, tmp_path):
    trainer = build(kind, tmp_path)
    attachment = hiddenkey.attach(trainer.model, DropoutConfig(NOISE, Consistency()))
    reason = "a loss of pairs" if kind == "Reward" else "needs deterministic log-probabilities"
    with pytest.raises(ConsistencyError, match=rf"{kind}Trainer .*{reason}.*; set consistency=Non"):
        watch(trainer, attachment)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consistency_loss_is_refused_in_the_first_step_without_watch(kind, tmp_path):
    trainer = build(kind, tmp_path)
    hiddenkey.attach(trainer.model, DropoutConfig(NOISE, Consistency()))
    with pytest.raises(
        ConsistencyError, match=r"consistency=None.* need deterministic|need.*=None"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("kind", KINDS)
def test_drops_are_off_where_dropout_is_disabled(kind, tmp_path, caplog):
    # TRL alone leaves LLaMA's own attention dropout on, which is no nn.Dropout
    trainer = build(kind, tmp_path, disable_dropout=True)
    hiddenkey.attach(trainer.model, "lora")
    expected = losses(trainer)
    trainer = build(kind, tmp_path, disable_dropout=True)
    attachment = hiddenkey.attach(trainer.model, DropoutConfig(NOISE))
    said = f"{kind}Config has disable_dropout=True, so the drops"
    with pytest.warns(UserWarning, match=said) as warned:
        watch(trainer, attachment)
    assert [each.filename for each in warned if said in str(each.message)] == [__file__]
    assert losses(trainer) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert set(attachment.rates.values()) == {0.0}
    assert {log["dropped/hidden"] for log in logs(trainer)} == {0.0}
    assert "no training pass reached" not in caplog.text, "its rates are 0, as it was told"


@pytest.mark.parametrize("kind", KINDS)
def test_drops_are_on_where_dropout_is(kind, tmp_path):
    found = []
    for config in (DropoutConfig(), DropoutConfig(NOISE)):
        trainer = build(kind, tmp_path, disable_dropout=False)
        watch(trainer, hiddenkey.attach(trainer.model, config), RateSchedule())
        found.append(losses(trainer))
    for log in logs(trainer):
        for key in ("attention_logits", "hidden"):
            assert 0.1 < log[f"dropped/{key}"] < 0.5
        assert log.get("task_loss", log["loss"]) == log["loss"], "not the model's own"
    assert found[0] != found[1]


def test_a_schedule_cannot_switch_on_what_is_disabled(tmp_path):
    trainer = build("DPO", tmp_path)
    attachment = hiddenkey.attach(trainer.model, DropoutConfig(NOISE))
    with pytest.raises(ConfigError, match=r"DPOConfig has; set disable_dropout=False, or leave"):
        watch(trainer, attachment, RateSchedule(warmup=2))


def test_a_full_model_with_a_reference_copy(tmp_path):
    """The reference is another model, without drops."""
    model = plain_model("llama", "causal")
    model.save_pretrained(tmp_path / "model")
    model.config._name_or_path = str(tmp_path / "model")  # where TRL finds the reference
    trainer = build("DPO", tmp_path, model=model, disable_dropout=False)
    attachment = hiddenkey.attach(trainer.model, DropoutConfig(NOISE))
    watch(trainer, attachment)
    trainer.train()
    assert all(log["dropped/hidden"] > 0.1 for log in logs(trainer))
