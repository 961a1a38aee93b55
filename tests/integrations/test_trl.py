"""TRL's SFTTrainer with a consistency loss: the loss, its scale, the metrics and the refusals."""

import math
import warnings

import pytest
import torch
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, DropoutConfig
from hiddenkey.integrations.trainer import watch
from models import PAD, VOCABULARY, lora_model, plain_model, seeded

pytest.importorskip("trl", reason="TRL is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from hiddenkey.integrations.trl import ConsistencySFTTrainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*non-tuple sequence for multidimensional.*"),
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed"),
]

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)
WITH_LOSS = DropoutConfig(NOISE.drops, Consistency())
NOTHING, QUIET = DropoutConfig(), DropoutConfig((), Consistency())  # no noise in either


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(3, VOCABULARY)} | {"<pad>": PAD, "<s>": 1, "</s>": 2}
    inner = Tokenizer(WordLevel(words, unk_token="w3"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def examples(kind: str, count: int = 32) -> Dataset:
    """Texts, or prompts with completions, of different lengths."""
    draws = torch.Generator().manual_seed(0)

    def words(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (1,), generator=draws))
        ids = torch.randint(3, VOCABULARY, (length,), generator=draws)
        return " ".join(f"w{i}" for i in ids)

    if kind == "text":
        return Dataset.from_list([{"text": words(4, 12)} for _ in range(count)])
    return Dataset.from_list(
        [{"prompt": words(2, 7), "completion": " " + words(2, 7)} for _ in range(count)]
    )


def make_trainer(kind, model, folder, *, data: str = "text", peft_config=None, **settings):
    arguments = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
        "max_length": 32,
        "seed": 7,
        **settings,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(
            model,
            args=SFTConfig(output_dir=str(folder), **arguments),
            train_dataset=examples(data),
            eval_dataset=examples(data, 8),
            processing_class=tokenizer(),
            peft_config=peft_config,
        )


def train(kind, folder, config, *, lm_loss="auto", model=None, **settings):
    """Return the training logs and the trained weights."""
    model = lora_model("llama", "causal") if model is None else model
    trainer = make_trainer(kind, model, folder, **settings)
    if config is not None:
        attachment = hiddenkey.attach(trainer.model, config, lm_loss=lm_loss)
        watch(trainer, attachment)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*non-tuple sequence.*")
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    weights = {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}
    return logs, weights


METRICS = ("entropy", "mean_token_accuracy", "num_tokens")
CASES = {
    "text": {},
    "completion-only": {"data": "completion"},
    "packed": {"packing": True},
    "packed, completion-only": {"data": "completion", "packing": True},
    "wrapped": {"packing": True, "packing_strategy": "wrapped"},
    "without padding": {"padding_free": True, "max_length": None},
    "accumulated": {"gradient_accumulation_steps": 3, "data": "completion"},
    "checkpointed": {"activation_checkpointing": True},
}


@pytest.mark.parametrize("lm_loss", ["chunked", "full"])
@pytest.mark.parametrize("case", CASES)
def test_without_noise_it_trains_as_trl_does(case, lm_loss, tmp_path):
    """Both passes agree, so loss, scale, TRL's metrics and weights must be TRL's own."""
    expected, weights = train(SFTTrainer, tmp_path, NOTHING, **CASES[case])
    settings = CASES[case]
    found, ours = train(ConsistencySFTTrainer, tmp_path, QUIET, lm_loss=lm_loss, **settings)
    assert len(found) == len(expected) == 3
    for log, wanted in zip(found, expected, strict=True):
        assert log["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert log["task_loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert log["consistency_loss"] == pytest.approx(0.0, abs=1e-6)
        for name in METRICS:
            assert log[name] == pytest.approx(wanted[name], rel=1e-4), name
    for name, value in weights.items():
        torch.testing.assert_close(ours[name], value, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_with_noise_the_consistency_loss_is_part_of_the_loss(case, tmp_path):
    found = {}
    for lm_loss in ("chunked", "full"):
        logs, weights = train(
            ConsistencySFTTrainer, tmp_path, WITH_LOSS, lm_loss=lm_loss, **CASES[case]
        )
        found[lm_loss] = (logs, weights)
        for log in logs:
            assert log["consistency_loss"] > 0.01
            total = log["task_loss"] + log["consistency_loss"]
            assert total == pytest.approx(log["loss"], rel=1e-3)
            assert 0 < log["entropy"] <= math.log(VOCABULARY)
    for one, two in zip(found["chunked"][0], found["full"][0], strict=True):
        for name in ("loss", "task_loss", "consistency_loss", *METRICS):
            assert one[name] == pytest.approx(two[name], rel=1e-3), name
    for name, value in found["full"][1].items():
        torch.testing.assert_close(found["chunked"][1][name], value, msg=name, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", ["completion-only", "accumulated"])
def test_watched_trls_own_trainer_trains_like_the_subclass(case, tmp_path):
    found, ours = train(SFTTrainer, tmp_path, WITH_LOSS, **CASES[case])
    expected, weights = train(ConsistencySFTTrainer, tmp_path, WITH_LOSS, **CASES[case])
    assert [log["loss"] for log in found] == [log["loss"] for log in expected]
    for name, value in weights.items():
        assert torch.equal(ours[name], value), name


def test_a_model_that_the_trainer_wraps_with_lora(tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    logs, weights = train(
        ConsistencySFTTrainer, tmp_path, WITH_LOSS, lm_loss="chunked",
        model=plain_model("llama", "causal"), peft_config=lora,
    )  # fmt: skip
    assert all(log["consistency_loss"] > 0.001 for log in logs)
    assert all("lora" in name for name in weights)


def test_passes_that_are_not_due_are_trained_without_it(tmp_path):
    config = DropoutConfig(NOISE.drops, Consistency(every=2))
    logs, _ = train(ConsistencySFTTrainer, tmp_path, config, lm_loss="chunked")
    assert ["consistency_loss" in log for log in logs] == [True, False, True]
    for log in logs:
        total = log["task_loss"] + log.get("consistency_loss", 0.0)
        assert total == pytest.approx(log["loss"], rel=1e-3)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_label_smoothing_is_trls_and_the_consistency_loss_is_added(accumulation, tmp_path):
    settings = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": accumulation}
    expected, weights = train(SFTTrainer, tmp_path, NOTHING, **settings)
    found, ours = train(ConsistencySFTTrainer, tmp_path, QUIET, **settings)
    for log, wanted in zip(found, expected, strict=True):
        assert log["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert log["consistency_loss"] == pytest.approx(0.0, abs=1e-6)
        for name in METRICS:
            assert log[name] == pytest.approx(wanted[name], rel=1e-4), name
    for name, value in weights.items():
        torch.testing.assert_close(ours[name], value, msg=name)
    for log in train(ConsistencySFTTrainer, tmp_path, WITH_LOSS, **settings)[0]:
        assert log["consistency_loss"] > 0.01
        total = log["task_loss"] + log["consistency_loss"]
        assert total == pytest.approx(log["loss"], rel=1e-3)


def test_evaluation_is_trls(tmp_path):
    found = []
    for kind, config in ((SFTTrainer, None), (ConsistencySFTTrainer, WITH_LOSS)):
        trainer = make_trainer(kind, lora_model("llama", "causal"), tmp_path)
        if config is not None:
            hiddenkey.attach(trainer.model, config, lm_loss="chunked")
        found.append(trainer.evaluate())
    for name in ("eval_loss", "eval_entropy", "eval_mean_token_accuracy"):
        assert found[0][name] == found[1][name]


@pytest.mark.parametrize("config", [None, NOISE], ids=["nothing", "noise"])
def test_without_a_consistency_loss_it_is_trls_trainer(config, tmp_path):
    expected, weights = train(SFTTrainer, tmp_path, config)
    found, ours = train(ConsistencySFTTrainer, tmp_path, config)
    assert [log["loss"] for log in found] == [log["loss"] for log in expected]
    for name, value in weights.items():
        assert torch.equal(ours[name], value)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_mixture_of_experts_keeps_its_auxiliary_loss(steps, tmp_path):
    def build():
        config = MixtralConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
            num_hidden_layers=2, intermediate_size=64, max_position_embeddings=48,
            initializer_range=0.2, pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
            num_local_experts=4, router_aux_loss_coef=0.5,
        )  # fmt: skip
        with seeded(0):
            return MixtralForCausalLM(config)

    settings = {"gradient_accumulation_steps": steps, "router_aux_loss_coef": 0.5}
    expected, weights = train(SFTTrainer, tmp_path, NOTHING, model=build(), **settings)
    found, ours = train(
        ConsistencySFTTrainer, tmp_path, QUIET, lm_loss="chunked", model=build(), **settings
    )
    for log, wanted in zip(found, expected, strict=True):
        assert wanted["aux_loss"] > 0
        for name in ("loss", "aux_loss", *METRICS):
            assert log[name] == pytest.approx(wanted[name], rel=1e-4), name
    for name, value in weights.items():
        torch.testing.assert_close(ours[name], value, msg=name, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- refusals


def test_trls_own_trainer_is_refused_where_nobody_watches_it(tmp_path):
    trainer = make_trainer(SFTTrainer, lora_model("llama", "causal"), tmp_path)
    hiddenkey.attach(trainer.model, WITH_LOSS)
    with pytest.raises(
        ConsistencyError,
        match=r"TRL's trainers do not train on the model's own loss, .* with SFTTrainer call"
        r" hiddenkey.integrations.trainer.watch\(.*; DPO, .*: set consistency=None",
    ):
        trainer.train()


def test_a_loss_that_was_attached_to_another_model_is_refused(tmp_path):
    trainer = make_trainer(ConsistencySFTTrainer, lora_model("llama", "causal"), tmp_path)
    attachment = hiddenkey.attach(lora_model("llama", "causal"), WITH_LOSS)
    watch(trainer, attachment)
    with pytest.raises(hiddenkey.AttachError, match="belongs to another model"):
        trainer.train()


def test_a_pass_that_goes_past_the_hooks_is_refused(tmp_path):
    trainer = make_trainer(ConsistencySFTTrainer, lora_model("llama", "causal"), tmp_path)
    hiddenkey.attach(trainer.model, WITH_LOSS)
    trainer.model_wrapped = other = lora_model("llama", "causal")
    with pytest.raises(ConsistencyError, match="did not see this training pass: the model is"):
        trainer.compute_loss(other, {"input_ids": torch.ones(1, 4, dtype=torch.long),
                                     "labels": torch.ones(1, 4, dtype=torch.long)})  # fmt: skip


def test_a_loss_that_is_computed_from_log_probabilities_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"loss_type must be 'nll' with a consistency loss, .*dft"
    ):
        train(ConsistencySFTTrainer, tmp_path, WITH_LOSS, loss_type="dft")
