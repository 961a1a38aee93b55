"""Adapters of encoder-decoders, whose cache has a half for each kind of attention."""

import pytest
import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

import hiddenkey
from adapters.every import NOISE, peft_may_warn
from hiddenkey import Consistency, DropoutConfig
from hiddenkey.framework.compensation import CONSISTENCIES
from models import assert_same_gradients, gradients, seeded

SPECIAL = {"vocab_size": 60, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
BARTS = {
    f"{half}_{field}": n
    for half in ("encoder", "decoder")
    for field, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}
BASES = {
    "t5": lambda: T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **SPECIAL),
    "bart": lambda: BartConfig(d_model=32, init_std=0.2, bos_token_id=1, **BARTS, **SPECIAL),
}
PROJECTIONS = ["q", "v", "wo", "q_proj", "v_proj", "fc2"]
ADAPTERS = {
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda: PromptEncoderConfig(num_virtual_tokens=3),
    "lora": lambda: LoraConfig(target_modules=PROJECTIONS),
    "adalora": lambda: AdaLoraConfig(
        target_modules=PROJECTIONS, total_step=10, init_r=4, target_r=2
    ),
}


def build(base: str, adapter: str):
    config = ADAPTERS[adapter]()
    config.task_type = "SEQ_2_SEQ_LM"
    with seeded(0), peft_may_warn():
        model = get_peft_model(AutoModelForSeq2SeqLM.from_config(BASES[base]()), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.train()


def batch() -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (4, 9), generator=draws)
    mask = torch.ones_like(ids)
    mask[1, 6:] = mask[3, 4:] = 0
    labels = torch.randint(3, 60, (4, 7), generator=draws)
    labels[2, 5:] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("base", BASES)
def test_the_consistency_loss_is_that_of_two_passes(base, adapter, both):
    inputs, by_hand, model = batch(), build(base, adapter), build(base, adapter)
    labelled = inputs["labels"] != -100
    with hiddenkey.attach(by_hand, NOISE), seeded(0):
        with torch.set_grad_enabled(both):
            other = by_hand(**inputs)
        trained = by_hand(**inputs)
        task = (trained.loss + other.loss) / 2 if both else trained.loss
        rows = trained.logits[labelled], other.logits[labelled]
        expected = task + CONSISTENCIES["kl"](*rows).mean()
        expected.backward()
    settings = Consistency(backward="both" if both else "one")
    with hiddenkey.attach(model, DropoutConfig(NOISE.drops, settings)) as attachment, seeded(0):
        loss = model(**inputs).loss
        loss.backward()
    assert attachment.losses["consistency"] > 1e-4
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients(model), gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_a_part_of_the_batch_takes_its_own_prefixes(base):
    """With a cache for each sequence, those of the chosen ones are taken."""
    inputs, model, found = batch(), build(base, "prefix"), {}
    for fraction in (0.5, 1.0):
        settings = DropoutConfig(NOISE.drops, Consistency(fraction=fraction))
        attachment = hiddenkey.attach(model, settings)
        losses = []
        for seed in range(30):
            with seeded(seed):
                model(**inputs)
            losses.append(attachment.losses["consistency"])
        found[fraction] = torch.tensor(losses)
    error = (found[0.5].var() / 30 + found[1.0].var() / 30).sqrt()
    assert abs(found[0.5].mean() - found[1.0].mean()) < 4 * error
