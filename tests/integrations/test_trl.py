"""TRL's SFTTrainer with a consistency loss: the loss, its scale, the metrics and the refusals."""

import math
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, DropoutConfig
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.trainer import watch
from hiddenkey.integrations.trl_loss import _attached_in_trls
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


# ---------------------------------------------------------------- subclasses


def reference_logits(trainer, model, inputs):
    """The base model's, under ``disable_adapter``, with random numbers of their own."""
    without_labels = {name: value for name, value in inputs.items() if name != "labels"}
    adapted = trainer.accelerator.unwrap_model(model)
    with torch.no_grad(), torch.random.fork_rng(), adapted.disable_adapter():
        return model(**without_labels).logits


def penalty(model):
    return sum(p.square().sum() for p in model.parameters() if p.requires_grad)


class UsesTheModel(SFTTrainer):
    """Does all that scripts do with the model; the loss is TRL's."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        assert model is self.model
        assert isinstance(model, PeftModel)
        assert model.config.vocab_size == VOCABULARY
        if model.training:
            assert reference_logits(self, model, inputs).shape[-1] == VOCABULARY
        return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)


class Penalised(SFTTrainer):
    """A term of its own, and TRL's loss as a mean over the labels of its pass."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss + 0.01 * penalty(model)


class Doubled(Penalised):
    """A subclass of a subclass, by the old form of ``super``."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inner = super(Doubled, self).compute_loss(model=model, inputs=inputs)  # noqa: UP008
        assert model.training
        assert model is self.model
        return 2 * inner


class ByName(SFTTrainer):
    """Names the class that it calls."""

    def compute_loss(self, model, inputs, *rest, **named):
        assert model.training
        return SFTTrainer.compute_loss(self, model, inputs, *rest, **named)


class MadeFromOurs(ConsistencySFTTrainer):
    def compute_loss(self, model, inputs, *rest, **named):
        assert model is self.model
        return super().compute_loss(model, inputs, *rest, **named)


def assert_same(found, expected):
    """Logs without the times, and weights."""
    names = ("loss", "task_loss", "consistency_loss", "grad_norm", *METRICS)
    for log, wanted in zip(found[0], expected[0], strict=True):
        assert {n: log.get(n) for n in names} == {n: wanted.get(n) for n in names}
    for name, value in expected[1].items():
        assert torch.equal(found[1][name], value), name


@pytest.mark.parametrize("kind", [UsesTheModel, ByName, MadeFromOurs])
@pytest.mark.parametrize("config", [NOISE, WITH_LOSS], ids=["noise", "with loss"])
def test_a_subclass_that_uses_the_model_trains_as_trls_trainer(kind, config, tmp_path):
    own = SFTTrainer.compute_loss
    settings = {"gradient_accumulation_steps": 2}
    expected = train(SFTTrainer, tmp_path, config, **settings)
    assert ("consistency_loss" in expected[0][0]) is (config is WITH_LOSS)
    assert_same(train(kind, tmp_path, config, **settings), expected)
    assert SFTTrainer.compute_loss is own


@pytest.mark.parametrize("lm_loss", ["chunked", "full"])
@pytest.mark.parametrize(("kind", "factor"), [(Penalised, 1), (Doubled, 2)])
def test_a_subclass_adds_a_term_to_the_whole_loss(kind, factor, lm_loss, tmp_path):
    """One pass, whose loss and gradient are known: those of TRL's trainer, and the term's."""
    found = {}
    for each in (SFTTrainer, kind):
        trainer = make_trainer(each, lora_model("llama", "causal"), tmp_path)
        attachment = hiddenkey.attach(trainer.model, WITH_LOSS, lm_loss=lm_loss)
        watch(trainer, attachment)
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        with seeded(1):
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        assert attachment.consistency_passes == 1
        assert attachment.losses["consistency"] > 0.01
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}
        found[each] = loss.item(), gradients, attachment.losses, trainer
    alone, gradients, parts, _ = found[SFTTrainer]
    assert sum(parts.values()) == pytest.approx(alone, rel=1e-5)
    loss, ours, our_parts, trainer = found[kind]
    assert our_parts == parts
    assert trainer.losses == [alone]
    term = 0.01 * penalty(trainer.model).item()
    assert loss == pytest.approx(factor * (alone + term), rel=1e-6)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            wanted = factor * (gradients[name] + 0.02 * parameter.detach())
            torch.testing.assert_close(ours[name], wanted, msg=name)


def test_the_loss_that_a_subclass_logs_is_whole(tmp_path):
    logs, _ = train(Penalised, tmp_path, WITH_LOSS, learning_rate=0.0)
    expected, _ = train(SFTTrainer, tmp_path, WITH_LOSS, learning_rate=0.0)
    term = 0.01 * penalty(lora_model("llama", "causal")).item()
    assert term > 0.01
    for log, wanted in zip(logs, expected, strict=True):
        assert log["consistency_loss"] == wanted["consistency_loss"] > 0.01
        assert log["loss"] == pytest.approx(wanted["loss"] + term, rel=1e-4)


def test_a_reference_pass_is_no_training_pass(tmp_path):
    """``every`` counts passes: a reference pass moves none, and its noise is the subclass's own."""
    config = DropoutConfig(NOISE.drops, Consistency(every=2))
    logs, _ = train(UsesTheModel, tmp_path, config)
    assert ["consistency_loss" in log for log in logs] == [True, False, True]


def test_the_callback_serves_a_subclass_and_gives_it_back(tmp_path):
    own = SFTTrainer.compute_loss
    trainer = make_trainer(UsesTheModel, lora_model("llama", "causal"), tmp_path)
    trainer.add_callback(HiddenKeyCallback(WITH_LOSS))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert all(log["consistency_loss"] > 0.01 for log in logs)
    assert "compute_loss" not in vars(trainer)
    assert SFTTrainer.compute_loss is own


def test_evaluation_of_a_subclass_is_trls(tmp_path):
    found = []
    for kind, config in ((SFTTrainer, None), (UsesTheModel, WITH_LOSS)):
        trainer = make_trainer(kind, lora_model("llama", "causal"), tmp_path)
        if config is not None:
            watch(trainer, hiddenkey.attach(trainer.model, config))
        found.append(trainer.evaluate())
    assert found[0]["eval_loss"] == found[1]["eval_loss"]


def test_only_the_trainer_at_work_sees_trls_method_replaced(tmp_path):
    """Another one, without ``watch``, is refused as ever, also in the midst of its call."""
    own = SFTTrainer.compute_loss
    other = make_trainer(SFTTrainer, lora_model("llama", "causal"), tmp_path)
    hiddenkey.attach(other.model, WITH_LOSS)
    other.model.train()

    class CallsAnother(SFTTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            assert SFTTrainer.compute_loss is not own
            with pytest.raises(ConsistencyError, match="with SFTTrainer call"):
                other.compute_loss(other.model, dict(inputs))
            return super().compute_loss(model, inputs, *rest, **named)

    logs, _ = train(CallsAnother, tmp_path, WITH_LOSS)
    assert all(log["consistency_loss"] > 0.01 for log in logs)
    assert SFTTrainer.compute_loss is own


def test_a_subclass_that_fails_leaves_trls_method_as_it_was(tmp_path):
    own = SFTTrainer.compute_loss

    class Fails(SFTTrainer):
        fails = True

        def compute_loss(self, model, inputs, *rest, **named):
            loss = super().compute_loss(model, inputs, *rest, **named)
            if self.fails:
                raise RuntimeError("out of luck")
            return loss

    trainer = make_trainer(Fails, lora_model("llama", "causal"), tmp_path)
    watch(trainer, hiddenkey.attach(trainer.model, WITH_LOSS))
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    assert SFTTrainer.compute_loss is own
    Fails.fails = False
    trainer.train()
    assert "consistency_loss" in trainer.state.log_history[0]


def test_trainers_whose_calls_overlap_do_not_disturb_each_other():
    """As those of two threads: the one that came first leaves first."""
    own, trainers = SFTTrainer.compute_loss, [object.__new__(UsesTheModel) for _ in range(2)]
    one, two = map(_attached_in_trls, trainers)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert SFTTrainer.compute_loss is not own
    two.__exit__(None, None, None)
    assert SFTTrainer.compute_loss is own


def test_a_function_in_the_place_of_the_method_can_read_the_model(tmp_path):
    trainer = make_trainer(SFTTrainer, lora_model("llama", "causal"), tmp_path)
    own = trainer.compute_loss

    def compute_loss(model, inputs, *rest, **named):
        assert model.training
        assert isinstance(model, PeftModel)
        reference_logits(trainer, model, inputs)
        return own(model, inputs, *rest, **named)

    trainer.compute_loss = compute_loss
    watch(trainer, hiddenkey.attach(trainer.model, WITH_LOSS))
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    expected, _ = train(SFTTrainer, tmp_path, WITH_LOSS)
    assert [log["loss"] for log in logs] == [log["loss"] for log in expected]


# ---------------------------------------------------------------- refusals


def test_a_subclass_that_calls_trls_fused_head_itself_is_refused(tmp_path):
    class Own(SFTTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            outputs = model(**inputs, fused_lm_head=True)
            return -outputs.log_probs.mean()

    with pytest.raises(ConsistencyError, match="do not train on the model's own loss"):
        train(Own, tmp_path, WITH_LOSS)


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


@pytest.mark.parametrize("lm_loss", ["chunked", "full"])
def test_a_learnt_prompt_trains_as_trl_does(lm_loss, tmp_path):
    """Its tokens have logits and no labels; the last of them predicts the first token."""
    found = []
    for config in (None, QUIET):
        with seeded(3):
            settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
            model = plain_model("llama", "causal", dropout=0.0)
            trainer = make_trainer(SFTTrainer, model, tmp_path, peft_config=settings)
        if config is not None:
            watch(trainer, hiddenkey.attach(trainer.model, config, lm_loss=lm_loss))
        trainer.train()
        found.append([log for log in trainer.state.log_history if "loss" in log])
    for expected, log in zip(*found, strict=True):
        for name in ("loss", *METRICS):
            assert log[name] == pytest.approx(expected[name], rel=1e-4), name
