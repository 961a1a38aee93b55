"""A decoder whose padding its labels alone show: collators give no mask of it."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from models import seeded

SHORT, LONG = 4, 20


def t5():
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def bart():
    config = BartConfig(
        vocab_size=64, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, pad_token_id=0,
        decoder_start_token_id=2, max_position_embeddings=64, dropout=0.0,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


LAST = {
    t5: "decoder.block.1.layer.2.DenseReluDense.wo",
    bart: "model.decoder.layers.1.fc2",
}


def inputs():
    labels = torch.full((4, LONG), -100)
    labels[:, :SHORT] = torch.randint(1, 64, (4, SHORT))
    labels[3] = torch.randint(1, 64, (LONG,))
    ids = torch.randint(1, 64, (4, 10))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.fixture(params=[t5, bart])
def built(request):
    with seeded(0):
        return request.param().train(), inputs(), LAST[request.param]


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_span_runs_over_the_labelled_tokens_alone(built, checkpoints):
    model, given, name = built
    if checkpoints:
        model.activation_checkpointing_enable({"use_reentrant": False})
    attachment = hiddenkey.attach(model, DropoutConfig((Drop("hidden", "span", 0.5),)))
    seen = []
    model.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.append(output.abs().sum(-1) == 0)
    )
    for seed in range(20):
        with seeded(seed):
            model(**given).loss.backward()
    dropped = torch.stack(seen)[:, :3].float()
    assert dropped[..., :SHORT].mean(-1).eq(0.5).all()  # two of four, in each row of each pass
    assert not dropped[..., SHORT:].any()
    assert attachment.shares()["hidden/3"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("pattern", ["column", "span", "element"])
def test_keys_are_drawn_and_counted_as_with_a_mask_of_the_decoder(built, pattern):
    model, given, _ = built
    shares = []
    for mask in ({}, {"decoder_attention_mask": (given["labels"] != -100).long()}):
        drop = Drop("attention_logits", pattern, 0.5)
        with hiddenkey.attach(model, DropoutConfig((drop,))) as attachment:
            for seed in range(12):
                with seeded(seed):
                    model(**given, **mask)
            shares.append(attachment.shares())
    own = [key for key in shares[0] if key.startswith("attention_logits/")]
    assert own
    for key in own:
        assert shares[0][key] == pytest.approx(shares[1][key], abs=0.03), key


def test_a_mask_of_the_decoder_counts_before_the_labels(built):
    model, given, name = built
    hiddenkey.attach(model, DropoutConfig((Drop("hidden", "span", 0.5),)))
    mask = torch.zeros_like(given["labels"])
    mask[:, :8] = 1
    seen = []
    model.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.append(output.abs().sum(-1) == 0)
    )
    model(**given, decoder_attention_mask=mask)
    assert seen[0].sum(-1).tolist() == [4] * 4
    assert not seen[0][:, 8:].any()


def test_unlabelled_tokens_before_a_label_are_no_padding(built):
    """As where a target's beginning is given and not trained on."""
    model, given, name = built
    labels = given["labels"].clone()
    labels[0, :2] = -100
    hiddenkey.attach(model, DropoutConfig((Drop("hidden", "span", 0.5),)))
    seen = []
    model.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.append(output.abs().sum(-1) == 0)
    )
    model(**{**given, "labels": labels})
    assert seen[0].sum(-1).tolist() == [2, 2, 2, 10]
