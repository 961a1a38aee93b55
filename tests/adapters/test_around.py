"""Adapters that do a part of their work around the model's own call."""

from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model

import hiddenkey
from adapters.every import NOISE, adapted, batch_for, divergence, peft_may_warn, two_passes
from hiddenkey import AttachError, ConfigError, Consistency, DropoutConfig
from models import assert_same_gradients, batch, gradients, plain_model, seeded

AROUND = [
    ("ADALORA", "llama"),
    ("ADALORA", "bert"),
    ("ADAPTION_PROMPT", "llama"),
    ("POLY", "llama"),
    ("POLY", "bert"),
    ("XLORA", "llama"),
    ("SHADOW", "llama"),
    ("PREFIX_TUNING", "bert"),
]


def config(**settings) -> DropoutConfig:
    return DropoutConfig(NOISE.drops, Consistency(**settings))


@pytest.mark.parametrize("settings", [{"backward": "both"}, {"kind": "js"}], ids=str)
@pytest.mark.parametrize(("name", "base"), AROUND)
def test_each_kind_of_second_pass(name, base, settings, tmp_path: Path):
    """An added loss counts once, and an inference pass silences the adapter's own modules too."""
    inputs = batch_for(name, base)
    by_hand = adapted(name, base, tmp_path)
    both = settings.get("backward") == "both"
    expected = two_passes(by_hand, inputs, settings.get("kind", "kl"), both=both)
    expected.backward()
    model = adapted(name, base, tmp_path)
    with hiddenkey.attach(model, config(**settings)), seeded(0):
        loss = model(**inputs).loss
        loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients(model), gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "base"), AROUND)
def test_a_part_of_the_batch_takes_its_own_tasks_and_caches(name, base, tmp_path: Path):
    inputs, found = batch_for(name, base), {}
    model = adapted(name, base, tmp_path)
    for fraction in (0.5, 1.0):
        attachment = hiddenkey.attach(model, config(fraction=fraction))
        losses = []
        for seed in range(30):
            with seeded(seed):
                model(**inputs)
            losses.append(attachment.losses["consistency"])
        found[fraction] = torch.tensor(losses)
    error = (found[0.5].var() / 30 + found[1.0].var() / 30).sqrt()
    assert abs(found[0.5].mean() - found[1.0].mean()) < 4 * error


@pytest.mark.parametrize(("name", "base"), AROUND)
def test_losses_in_the_logs_add_up(name, base, tmp_path: Path):
    model = adapted(name, base, tmp_path)
    attachment = hiddenkey.attach(model, config())
    with seeded(0):
        loss = model(**batch_for(name, base)).loss.item()
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert attachment.losses["consistency"] > 1e-4


def test_adalora_allocates_ranks_while_it_trains(tmp_path: Path):
    """A loop as PEFT describes it, against the same loop by hand."""

    def train(step_loss) -> tuple[list[float], dict]:
        with seeded(0), peft_may_warn():
            model = get_peft_model(
                plain_model("llama", "causal", use_cache=False),
                AdaLoraConfig(
                    task_type="CAUSAL_LM",
                    target_modules=["q_proj", "v_proj", "down_proj"],
                    init_r=4,
                    target_r=2,
                    tinit=1,
                    tfinal=2,
                    total_step=6,
                    orth_reg_weight=0.5,
                ),
            ).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses = []
        for step in range(6):
            loss = step_loss(model, step)
            loss.backward()
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, model.base_model.peft_config["default"].rank_pattern

    def attached(model, step):
        if step == 0:
            hiddenkey.attach(model, config())
        with seeded(step):
            return model(**inputs).loss

    inputs = batch("causal", "left")
    found, pattern = train(attached)
    expected, by_hand = train(lambda model, step: two_passes(model, inputs, seed=step))
    assert found == pytest.approx(expected, rel=1e-4)
    assert pattern == by_hand
    assert sum(sum(kept) for kept in pattern.values()) == 2 * 6  # two ranks in each of six layers


def test_the_orthogonality_loss_is_in_the_task_loss_once(tmp_path: Path):
    model, inputs = adapted("ADALORA", "bert", tmp_path), batch_for("ADALORA", "bert")
    settings = model.peft_config["default"]
    losses = []
    for weight in (0.0, 1.0):
        settings.orth_reg_weight = weight
        attachment = hiddenkey.attach(model, config(backward="both"))
        with seeded(0):
            losses.append(model(**inputs).loss.item())
        attachment.detach()
    factors = [p for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]
    squares = [p @ p.T if p.shape[0] < p.shape[1] else p.T @ p for p in factors]
    penalty = torch.stack([(s - torch.eye(len(s))).norm() for s in squares]).mean()
    assert losses[1] - losses[0] == pytest.approx(penalty.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "base"), [("ADALORA", "bert"), ("POLY", "llama"), ("XLORA", "llama")]
)
def test_the_model_inside_is_refused(name, base, tmp_path: Path):
    model = adapted(name, base, tmp_path)
    with pytest.raises(AttachError, match=f"PEFT's {name} .* attach to the PeftModel"):
        hiddenkey.attach(model.get_base_model(), NOISE)


def test_transformers_own_adapters_need_no_peft_model():
    model, inputs = plain_model("llama", "causal", dropout=0.0), batch("causal", "left")
    try:
        with peft_may_warn(), seeded(0):
            model.add_adapter(AdaLoraConfig(target_modules=["k_proj", "v_proj"], total_step=10))
    except ValueError as refusal:  # transformers wants a later PEFT
        pytest.skip(str(refusal))
    expected = two_passes(model, inputs)
    with hiddenkey.attach(model, config()), seeded(0):
        torch.testing.assert_close(model(**inputs).loss, expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_that_is_called_past_the_model_needs_attach_after_it():
    model = plain_model("llama", "causal")
    hiddenkey.attach(model, config())
    with peft_may_warn():
        wrapped = get_peft_model(
            model, AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["k_proj"], total_step=10)
        )
    with pytest.raises(hiddenkey.ConsistencyError, match="goes around the model's own call"):
        wrapped.train()(**batch("causal"))


def test_alora_compares_whole_batches_only(tmp_path: Path):
    inputs = batch_for("LORA (aLoRA)", "llama")
    expected = two_passes(adapted("LORA (aLoRA)", "llama", tmp_path), inputs)
    model = adapted("LORA (aLoRA)", "llama", tmp_path)
    with hiddenkey.attach(model, config()), seeded(0):
        torch.testing.assert_close(model(**inputs).loss, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"fraction must be 1 with PEFT's alora_.* got 0\.5"):
        hiddenkey.attach(model, config(fraction=0.5))


def test_llama_adapter_is_switched_off_and_on(tmp_path: Path):
    """It puts its own module around each attention, and takes it away in the context."""
    model, inputs = adapted("ADAPTION_PROMPT", "llama", tmp_path), batch("causal", "left")
    expected = two_passes(adapted("ADAPTION_PROMPT", "llama", tmp_path), inputs)
    names = {site.name for site in hiddenkey.attach(model, config()).sites}
    assert "model.layers.1.self_attn.model" in names
    with model.disable_adapter():
        with torch.no_grad():
            model.eval()(**inputs)
        with pytest.raises(AttachError, match="was replaced after attach"):
            model.train()(**inputs)
    with seeded(0):
        torch.testing.assert_close(model(**inputs).loss, expected, rtol=1e-5, atol=1e-6)


def test_noise_in_the_top_layer_alone_with_an_adapter_around_the_call(tmp_path: Path):
    """The lower layers are not shared between the passes, since X-LoRA runs them once more."""
    inputs = batch_for("XLORA", "llama")
    top = DropoutConfig(NOISE.drops, layers=(1,))
    model = adapted("XLORA", "llama", tmp_path)
    with hiddenkey.attach(model, top), seeded(0):
        with torch.no_grad():
            other = model(**inputs).logits
        trained = model(**inputs)
    expected = trained.loss + divergence("kl", trained.logits, other, inputs["labels"])
    again = adapted("XLORA", "llama", tmp_path)
    settings = DropoutConfig(NOISE.drops, Consistency(), layers=(1,))
    with hiddenkey.attach(again, settings), seeded(0):
        torch.testing.assert_close(again(**inputs).loss, expected, rtol=1e-5, atol=1e-6)


def test_lora_in_a_plain_peft_model_is_called_through_the_transformer():
    """What most people train keeps its hooks where they are cheapest."""
    with peft_may_warn():
        model = get_peft_model(plain_model("bert"), LoraConfig(target_modules=["key"]))
    attachment = hiddenkey.attach(model, config())
    assert attachment._entry is model.get_base_model()
