"""Several sequences in one row: each as if it were alone, whatever falls."""

import pytest
import torch
from transformers import DataCollatorWithFlattening

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from models import assert_same_gradients, gradients, lora_model, plain_model, seeded

SEQUENCES = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
ALONE = (0, 5, 6)  # tokens that see themselves only: the first of each sequence
ATTENTION_METHODS = ("dropkey", "dropkey-span", "dropkey-element", "dropattention")

lengths = pytest.mark.parametrize("with_lengths", [False, True], ids=["positions", "lengths"])


def packed(*, with_lengths=False, sequences=SEQUENCES):
    """One row; with the sequence lengths that flash attention would take, or without."""
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=with_lengths)
    return collate([{"input_ids": each, "labels": each} for each in sequences])


def separate(sequence):
    tokens = torch.tensor([sequence])
    return {"input_ids": tokens, "labels": tokens}


@lengths
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_noise_two_packed_sequences_are_two_separate_ones(attention, with_lengths):
    config = DropoutConfig(
        tuple(hiddenkey.Drop(p, "column", 0.0) for p in ("attention_logits", "hidden")),
        Consistency(),
    )
    model = lora_model("llama", "causal", attention=attention, use_cache=False)
    hiddenkey.attach(model, config)
    count = sum(len(each) - 1 for each in SEQUENCES)
    for sequence in SEQUENCES:
        if len(sequence) > 1:
            loss = model(**separate(sequence)).loss
            (loss * (len(sequence) - 1) / count).backward()
    expected = gradients(model)
    model(**packed(with_lengths=with_lengths)).loss.backward()
    assert_same_gradients(gradients(model), expected, rtol=1e-4, atol=1e-6)


@lengths
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("method", ATTENTION_METHODS)
def test_with_noise_nothing_leaks_from_one_sequence_into_another(method, kernel, with_lengths):
    model = plain_model("llama", "causal", use_cache=False)
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.4), kernel=kernel)
    found = []
    for last in ([11, 12, 13], [40, 41, 42]):
        inputs = packed(with_lengths=with_lengths, sequences=[*SEQUENCES[:2], last])
        with seeded(0):
            found.append(model(**inputs).logits[0])
    torch.testing.assert_close(found[0][:6], found[1][:6])
    assert not torch.allclose(found[0][6:], found[1][6:])
    assert all(share > 0 for share in attachment.shares().values())


@lengths
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("method", ATTENTION_METHODS)
def test_no_query_loses_all_keys_of_its_own_sequence(method, kernel, with_lengths):
    """A query with a single key keeps it, so that its attention is that without noise."""
    model = plain_model("llama", "causal", layers=1, use_cache=False)
    seen = []
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach()[0])
    )
    inputs = packed(with_lengths=with_lengths)
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.9), kernel=kernel)
    attachment.set_rates({"attention_logits/0" if "key" in method else "attention_weights/0": 0})
    model(**inputs)
    plain = seen.pop()
    attachment.set_rates(dict.fromkeys(attachment.rates, 0.9))
    for seed in range(10):
        with seeded(seed):
            model(**inputs)
        for token in ALONE:
            torch.testing.assert_close(seen[-1][token], plain[token])
        others = [token for token in range(9) if token not in ALONE]
        assert not torch.allclose(seen[-1][others], plain[others])
        assert seen[-1][others].norm(dim=-1).min() > 0.01 * plain[others].norm(dim=-1).min()


@lengths
@pytest.mark.parametrize("lm_loss", ["chunked", "full"])
def test_the_consistency_loss_of_a_packed_row(lm_loss, with_lengths):
    model = lora_model("llama", "causal", use_cache=False)
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3), lm_loss=lm_loss)
    with seeded(0):
        loss = model(**packed(with_lengths=with_lengths)).loss
    loss.backward()
    assert attachment.losses["consistency"] > 0.01
    assert sum(attachment.losses.values()) == pytest.approx(loss.item(), rel=1e-5)
    assert all(share > 0.05 for share in attachment.shares().values())
