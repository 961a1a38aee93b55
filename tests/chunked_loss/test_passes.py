"""Language models attached with a chunked loss, against the same models with their logits."""

import dataclasses
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Trainer,
    TrainingArguments,
)

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, Drop, DropoutConfig
from hiddenkey.chunked_loss.capture import find_post
from hiddenkey.chunked_loss.post import Scaled, SoftCapped
from hiddenkey.integrations.trainer import watch
from models import (
    DECODERS,
    PAD,
    VOCABULARY,
    assert_same_gradients,
    batch,
    configuration,
    lora_model,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
    transformer_in,
)

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
HIDDEN_NOISE = DropoutConfig((Drop("hidden", "element", 0.4),))
ATTENTION_NOISE = DropoutConfig((Drop("attention_logits", "column", 0.4),))
SETTINGS = [
    {},
    {"kind": "js"},
    {"backward": "both"},
    {"weight": 2.5, "every": 3},
    {"fraction": 0.5},
    {"fraction": 0.5, "backward": "both"},
    {"weight": 0.0},
    {"weight": 0.0, "backward": "both"},
]


def config(noise: DropoutConfig = NOISE, **settings) -> DropoutConfig:
    return dataclasses.replace(noise, consistency=Consistency(**settings))


def same_in_both_ways(build, inputs, settings: DropoutConfig, seeds=(0,), **tolerances) -> None:
    """Compare losses, their parts and all gradients of ``chunked`` and of ``full``."""
    found = []
    for lm_loss in ("chunked", "full"):
        model = build()
        attachment = hiddenkey.attach(model, settings, lm_loss=lm_loss)
        for seed in seeds:
            loss, gradients = step(model, inputs, seed)
            found.append((loss, attachment.losses, gradients))
    chunked, full = found[: len(seeds)], found[len(seeds) :]
    for (loss, losses, gradients), (expected, parts, wanted) in zip(chunked, full, strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
        assert losses == {k: pytest.approx(v, rel=1e-4, abs=1e-7) for k, v in parts.items()}
        assert_same_gradients(gradients, wanted, **{"rtol": 1e-3, "atol": 1e-5, **tolerances})


# ---------------------------------------------------------------- the same numbers


def says_chunked(attachment):
    return any(line.endswith(", chunked") for line in attachment.summary())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("family", DECODERS)
def test_loss_and_gradients_are_those_over_full_logits(family, padding, settings):
    inputs = batch("causal", padding)
    same_in_both_ways(lambda: lora_model(family, "causal"), inputs, config(**settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("as_tensor", [True, False])
def test_with_num_items_in_batch_too(settings, as_tensor):
    inputs = batch("causal", "right")
    items = 4 * (inputs["labels"][:, 1:] != -100).sum()
    inputs["num_items_in_batch"] = items if as_tensor else int(items)
    same_in_both_ways(lambda: lora_model("llama", "causal"), inputs, config(**settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_with_sparse_labels_given_shifted(settings):
    inputs = batch("causal")
    inputs["labels"][:, 3:6] = -100
    inputs["labels"][2] = -100
    inputs["shift_labels"] = inputs["labels"].roll(-1, 1)
    same_in_both_ways(lambda: lora_model("llama", "causal"), inputs, config(**settings))


def test_passes_that_do_not_carry_the_loss():
    """``every=3``: passes 2 and 3 are chunked too, and both ways draw the same noise."""
    inputs = batch("causal")
    same_in_both_ways(
        lambda: lora_model("llama", "causal"), inputs, config(every=3), seeds=(0, 1, 2, 3)
    )


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_head(tied, settings):
    same_in_both_ways(
        lambda: plain_model("llama", "causal", tie_word_embeddings=tied),
        batch("causal"),
        config(**settings),
    )


def with_adapter(model, **more):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, **more)
    with seeded(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return model.train()


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["adapted-head", "saved-head"],
)
def test_a_head_that_peft_trains(adapter, settings):
    def build():
        return with_adapter(plain_model("llama", "causal"), **adapter)

    names = [name for name, p in build().named_parameters() if p.requires_grad]
    assert any("lm_head" in name for name in names)
    same_in_both_ways(build, batch("causal"), config(**settings))


# ---------------------------------------------------------------- models with a way of their own


def tiny(kind, **more):
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
        "initializer_range": 0.2,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }
    with seeded(0):
        return AutoModelForCausalLM.from_config(kind(**settings)).train()


UNUSUAL = {
    "cohere": lambda: tiny(CohereConfig, logit_scale=0.25),
    "granite": lambda: tiny(GraniteConfig, logits_scaling=4.0),
    "gemma2": lambda: tiny(Gemma2Config, final_logit_softcapping=2.0, head_dim=8),
    "mixtral": lambda: tiny(
        MixtralConfig, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5
    ),
}


@pytest.mark.parametrize("settings", SETTINGS[:5], ids=str)
@pytest.mark.parametrize("name", UNUSUAL)
def test_scaled_and_capped_logits_and_auxiliary_losses(name, settings):
    assert UNUSUAL[name]().config.model_type == name
    noise = HIDDEN_NOISE if name == "gemma2" else ATTENTION_NOISE
    same_in_both_ways(UNUSUAL[name], batch("causal", "none"), config(noise, **settings))


class BentForCausalLM(LlamaForCausalLM):
    """Does something that nobody could guess to its logits."""

    def forward(self, labels=None, **kwargs):
        output = super().forward(**kwargs)
        output["logits"] = output.logits.sin()
        if labels is not None:
            output["loss"] = self.loss_function(
                output.logits, labels, vocab_size=self.config.vocab_size
            )
        return output


class PenalisedForCausalLM(LlamaForCausalLM):
    """Adds a term of its own, computed from its logits."""

    def forward(self, labels=None, **kwargs):
        output = super().forward(**kwargs)
        if labels is not None:
            loss = self.loss_function(output.logits, labels, vocab_size=self.config.vocab_size)
            output["loss"] = loss + 1e-2 * output.logits.logsumexp(-1).pow(2).mean()
        return output


class TwiceHeadedForCausalLM(LlamaForCausalLM):
    """Calls its head twice."""

    def forward(self, labels=None, **kwargs):
        output = super().forward(labels=labels, **kwargs)
        self.lm_head(torch.zeros(1, 1, self.config.hidden_size))
        if labels is not None:
            output["loss"] = self.loss_function(
                output.logits, labels, vocab_size=self.config.vocab_size
            )
        return output


STRANGE = {
    BentForCausalLM: "it does something unknown to its head's logits before its loss",
    PenalisedForCausalLM: "it adds something of its own to the loss",
    TwiceHeadedForCausalLM: "it calls its head 2 times before its loss",
}


def strange(kind):
    def build():
        with seeded(0):
            return kind(configuration("llama")).train()

    return build


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("settings", [{}, {"backward": "both"}, {"fraction": 0.5}], ids=str)
def test_a_model_that_needs_its_logits_keeps_them_and_its_random_numbers(
    kind, settings, monkeypatch
):
    """``auto`` finds out in the first pass, and goes the other way as if nothing had been."""
    monkeypatch.setattr("hiddenkey.step.added_loss.LARGE_VOCABULARY", VOCABULARY)
    build, found = strange(kind), []
    for lm_loss in ("auto", "full"):
        model = build()
        attachment = hiddenkey.attach(model, config(**settings), lm_loss=lm_loss)
        assert says_chunked(attachment) is (lm_loss == "auto")
        found.append([step(model, batch("causal"), seed) for seed in range(2)])
        assert not says_chunked(attachment)
        assert run(model, batch("causal")).logits is not None
    for (loss, gradients), (expected, wanted) in zip(*found, strict=True):
        assert loss == pytest.approx(expected, rel=1e-6)
        assert_same_gradients(gradients, wanted)


@pytest.mark.parametrize("kind", STRANGE)
def test_chunked_says_why_it_cannot(kind):
    model = strange(kind)()
    hiddenkey.attach(model, config(), lm_loss="chunked")
    with pytest.raises(ConsistencyError, match=f"of {kind.__name__} {STRANGE[kind]}; use 'auto'"):
        model(**batch("causal"))
    assert "_loss_function" not in model.__dict__


def test_a_head_in_shards_keeps_its_logits():
    model = lora_model("llama", "causal")
    transformer_in(model).lm_head.weight.ds_id = 3  # as DeepSpeed marks what it partitions
    hiddenkey.attach(model, config(), lm_loss="chunked")
    with pytest.raises(ConsistencyError, match="weights are no plain tensors, but sharded or"):
        model(**batch("causal"))


@pytest.mark.parametrize(
    ("post", "settings"),
    [
        (SoftCapped(3.0), {"final_logit_softcapping": 3.0}),
        (Scaled(0.5), {"logit_scale": 0.5}),
        (Scaled(3.0, divides=True), {"logits_scaling": 3.0, "logit_scale": None}),
        (None, {"logit_scale": 0.5, "final_logit_softcapping": 30.0}),
        (None, {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lies_behind_the_head_is_found_exactly(post, settings, dtype):
    outputs = (3 * torch.randn(4, 60)).to(dtype)
    logits = outputs if post is None else post.apply(outputs)
    found = find_post(outputs, logits, type("Config", (), settings)())
    if post is None:
        assert found is None
    else:
        assert type(found) is type(post)
        assert vars(found) == vars(post)
    assert isinstance(find_post(outputs, outputs.square(), object()), str)


# ---------------------------------------------------------------- what the caller sees


def test_which_way_is_taken():
    model = lora_model("llama", "causal")
    for lm_loss, chunked in (("auto", False), ("full", False), ("chunked", True)):
        attachment = hiddenkey.attach(model, config(), lm_loss=lm_loss)
        assert says_chunked(attachment) is chunked
        assert (run(model, batch("causal")).logits is None) is chunked
    large = plain_model("llama", "causal", vocab_size=8192)
    attachment = hiddenkey.attach(large, config())
    assert says_chunked(attachment)
    assert run(large, batch("causal")).logits is None
    assert not says_chunked(hiddenkey.attach(large, NOISE))
    assert run(large, batch("causal")).logits is not None


def test_the_head_computes_one_token_of_each_sequence():
    model = lora_model("llama", "causal")
    hiddenkey.attach(model, config(), lm_loss="chunked")
    shapes = []
    transformer_in(model).lm_head.register_forward_hook(
        lambda module, args, output: shapes.append(tuple(output.shape))
    )
    # a hook of somebody else's makes the head an unusual one, which is called chunk by chunk
    run(model, batch("causal", "none"))
    assert shapes[:2] == [(4, 1, VOCABULARY)] * 2
    assert all(len(shape) == 2 for shape in shapes[2:])


def test_evaluation_and_passes_without_labels_or_gradients_have_their_logits():
    model = lora_model("llama", "causal")
    inputs = batch("causal")
    expected = {}
    for lm_loss in ("full", "chunked"):
        hiddenkey.attach(model, config(every=2), lm_loss=lm_loss)
        step(model.train(), inputs)
        outputs = [run(model, {k: v for k, v in inputs.items() if k != "labels"}).logits]
        with torch.no_grad():
            outputs.append(run(model, inputs).logits)
        outputs.append(run(model.eval(), inputs).logits)
        expected.setdefault("outputs", outputs)
        for one, two in zip(outputs, expected["outputs"], strict=True):
            assert torch.equal(one, two)


def test_asking_for_some_logits_leaves_the_model_its_own_way():
    model = lora_model("llama", "causal")
    hiddenkey.attach(model, config(), lm_loss="chunked")
    with pytest.raises(ValueError, match="batch_size"):  # as without the library
        run(model, {**batch("causal"), "logits_to_keep": 2})
    assert run(model, {**batch("causal"), "logits_to_keep": 0}).logits is None


def test_detaching_restores_the_model():
    model = lora_model("llama", "causal")
    before = snapshot(model)
    attachment = hiddenkey.attach(model, config(), lm_loss="chunked")
    step(model, batch("causal"))
    attachment.detach()
    assert snapshot(model) == before
    assert run(model, batch("causal")).logits is not None


@pytest.mark.parametrize("fails_in", ["other", "trained"])
def test_a_pass_that_fails_leaves_nothing_behind(fails_in):
    model = lora_model("llama", "causal")
    hiddenkey.attach(model, config(), lm_loss="chunked")
    loss, _ = step(model, batch("causal"))
    calls = []

    def fail(module, args):
        calls.append(torch.is_grad_enabled())
        if calls[-1] is (fails_in == "trained"):
            raise RuntimeError("out of memory")

    handle = transformer_in(model).model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(**batch("causal"))
    handle.remove()
    assert "_loss_function" not in transformer_in(model).__dict__
    assert run(model.eval(), batch("causal")).logits is not None
    assert step(model.train(), batch("causal"))[0] == loss


def test_a_batch_without_labels_in_it_adds_nothing():
    """The model's own mean over no tokens is NaN; a sum over none is 0 both ways."""
    inputs = batch("causal")
    inputs["labels"].fill_(-100)
    for more in ({}, {"num_items_in_batch": torch.tensor(7)}):
        model = lora_model("llama", "causal")
        attachment = hiddenkey.attach(model, config(), lm_loss="chunked")
        loss, found = step(model, {**inputs, **more})
        assert loss == 0
        assert attachment.losses == {"task": 0.0, "consistency": 0.0}
        assert all(not gradient.any() for gradient in found.values())


def test_the_sums_of_the_last_pass_can_be_read():
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(), lm_loss="chunked")
    assert attachment.lm_sums is None
    run(model, inputs := batch("causal"))
    labelled = (inputs["labels"][:, 1:] != -100).sum()
    task = attachment.lm_sums.task / labelled
    assert task.item() == pytest.approx(attachment.losses["task"], rel=1e-5)


def test_misuse_is_refused():
    model = lora_model("llama", "causal")
    with pytest.raises(
        ConfigError, match="lm_loss must be one of auto, chunked, full, got 'chunk'"
    ):
        hiddenkey.attach(model, config(), lm_loss="chunk")
    with pytest.raises(ConfigError, match="lm_loss='chunked' needs a consistency loss, got none"):
        hiddenkey.attach(model, "hiddenkey-minus", lm_loss="chunked")
    with pytest.raises(ConfigError, match="cannot serve BertForSequenceClassification: it is no"):
        hiddenkey.attach(lora_model("bert"), config(), lm_loss="chunked")
    with pytest.raises(ConfigError, match=r"'representation' compares no logits; use 'auto'"):
        hiddenkey.attach(model, config(on="representation"), lm_loss="chunked")
    transformer_in(model).loss_function = nn.functional.cross_entropy
    with pytest.raises(ConfigError, match="its loss function is cross_entropy, not the plain"):
        hiddenkey.attach(model, config(), lm_loss="chunked")


def test_a_head_that_is_replaced_after_attach_is_refused():
    model = plain_model("llama", "causal")
    hiddenkey.attach(model, config(HIDDEN_NOISE), lm_loss="chunked")
    model.lm_head = nn.Linear(32, VOCABULARY)
    with pytest.raises(hiddenkey.AttachError, match="language-model head was replaced after"):
        model(**batch("causal"))


# ---------------------------------------------------------------- in training


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_with_activation_checkpointing(settings):
    found = []
    for checkpoints in (False, True):
        model = lora_model("llama", "causal")
        if checkpoints:
            transformer_in(model).activation_checkpointing_enable({"use_reentrant": False})
        hiddenkey.attach(model, config(**settings), lm_loss="chunked")
        found.append(step(model, batch("causal", "left")))
    (loss, gradients), (expected, wanted) = found
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_same_gradients(gradients, wanted)


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_bfloat16(settings):
    found = []
    for lm_loss in ("chunked", "full"):
        model = plain_model("llama", "causal").to(torch.bfloat16)
        hiddenkey.attach(model, config(**settings), lm_loss=lm_loss)
        found.append(step(model, batch("causal")))
    (loss, gradients), (expected, wanted) = found
    assert loss == pytest.approx(expected, rel=1e-2)
    for name in gradients:
        error = (gradients[name] - wanted[name]).norm() / wanted[name].norm()
        assert error < 0.05, name  # most of it is that of the full way


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"activation_checkpointing": True},
        {"bf16": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("peft", [True, False], ids=["lora", "plain"])
def test_training_under_trainer_is_the_same_both_ways(settings, peft, tmp_path):
    inputs = batch("causal", "right", size=36)
    examples = [{name: value[row] for name, value in inputs.items()} for row in range(36)]
    found = []
    for lm_loss in ("chunked", "full"):
        model = (lora_model if peft else plain_model)("llama", "causal")
        attachment = hiddenkey.attach(model, config(), lm_loss=lm_loss)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / lm_loss), max_steps=3, per_device_train_batch_size=4,
            logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            learning_rate=1e-2, optim="sgd", dataloader_pin_memory=False, eval_strategy="epoch",
            **settings,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
            trainer = Trainer(model, arguments, collate, examples, examples[:8])
            watch(trainer, attachment)
            trainer.train()
        found.append([log for log in trainer.state.log_history if "loss" in log])
    tolerance = 1e-2 if "bf16" in settings else 1e-4
    for one, two in zip(*found, strict=True):
        for name in ("loss", "task_loss", "consistency_loss"):
            assert one[name] == pytest.approx(two[name], rel=tolerance), name
        assert one["consistency_loss"] > 0.001
        assert one["task_loss"] + one["consistency_loss"] == pytest.approx(one["loss"], rel=1e-3)


@pytest.mark.parametrize("method", ["hiddenkey", "temporal", "label-smoothing"])
def test_a_pass_without_logits_says_so_once(method, caplog, monkeypatch):
    """Before a script that reads them meets None, as distillation does."""
    monkeypatch.setattr("hiddenkey.log._said", set())
    caplog.set_level("INFO", logger="hiddenkey")
    model = plain_model("llama", "causal")
    hiddenkey.attach(model, method, lm_loss="chunked")
    for _ in range(2):
        assert model(**batch("causal")).logits is None
    assert caplog.text.count("attach with lm_loss='full'") == 1
