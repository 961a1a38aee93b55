import json

import pytest
from transformers import GPT2Config, LlamaConfig, Qwen3NextConfig, T5Config, ViTConfig

import hiddenkey
from hiddenkey.cli.main import main


def examine(capsys, *words):
    status = main(["doctor", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_bundled_model_layer_by_layer(capsys):
    status, found = examine(capsys, "minilm")
    assert status == 0
    assert found["totals"] == {"attention_logits": "6 of 6 layers", "hidden": "6 of 6 layers"}
    assert [site["layer"] for site in found["sites"]] == [*range(6), *range(6)]
    first = found["sites"][0]
    assert first["name"] == "bert.encoder.layer.0.attention.self"
    assert (first["pattern"], first["rate"], first["kernel"]) == ("column", 0.1, "fused")


@pytest.mark.parametrize(
    ("config", "head", "layers"),
    [
        (GPT2Config(n_layer=3), "causal", 3),
        (T5Config(num_layers=1, num_decoder_layers=2), "seq2seq", 3),
    ],
    ids=["gpt2", "t5"],
)
def test_a_method_on_the_update_is_shown_on_lora(capsys, tmp_path, config, head, layers):
    config.save_pretrained(tmp_path)
    _, found = examine(capsys, str(tmp_path), "--meta", "--head", head, "--method", "coto")
    assert found["totals"] == {"update": f"{layers} of {layers} layers"}
    assert {site["rate"] for site in found["sites"]} == {0.9}
    assert any("linear decay over the first 75% of the steps" in line for line in found["summary"])


def test_table_ends_with_totals(capsys):
    assert main(["doctor", "minilm", "--meta", "--layers", "0", "5", "--rates.hidden", "0.3"]) == 0
    shown = capsys.readouterr().out
    assert "bert.encoder.layer.5.output.dense" in shown
    assert "bert.encoder.layer.4.output.dense" not in shown
    assert "attention_logits: column, rate 0.1" in shown
    assert "hidden: element, rate 0.3" in shown
    assert "2 of 6 layers" in shown


@pytest.mark.parametrize("head", ["classification", "regression", "causal"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_configuration_alone_is_enough(capsys, tmp_path, head, family):
    config = {
        "llama": LlamaConfig(num_hidden_layers=3, pad_token_id=0),
        "gpt2": GPT2Config(n_layer=3, pad_token_id=0),
    }[family]
    config.save_pretrained(tmp_path)
    status, found = examine(capsys, str(tmp_path), "--meta", "--head", head)
    assert status == 0
    assert found["totals"] == {"attention_logits": "3 of 3 layers", "hidden": "3 of 3 layers"}
    assert ("CausalLM" in found["class"] or "LMHead" in found["class"]) == (head == "causal")


@pytest.mark.parametrize(
    ("config", "head", "totals"),
    [
        (T5Config(num_layers=2, num_decoder_layers=3), "seq2seq", (5, 5)),
        (ViTConfig(num_hidden_layers=2), "image", (2, 2)),
        (Qwen3NextConfig(num_hidden_layers=4), "causal", (1, 4)),
    ],
    ids=["t5", "vit", "qwen3_next"],
)
def test_other_heads_and_layers_without_attention(capsys, tmp_path, config, head, totals):
    config.save_pretrained(tmp_path)
    _, found = examine(capsys, str(tmp_path), "--meta", "--head", head)
    layers = found["layers"]
    assert found["totals"] == {
        "attention_logits": f"{totals[0]} of {layers} layers",
        "hidden": f"{totals[1]} of {layers} layers",
    }
    assert [gap["layer"] for gap in found["gaps"]] == ([0, 1, 2] if totals[0] < totals[1] else [])


def test_stored_configuration_can_be_examined(capsys, tmp_path):
    hiddenkey.method("dropattention-element", rate=0.4).save_pretrained(tmp_path)
    _, found = examine(capsys, "minilm", "--meta", "--method", str(tmp_path))
    assert {(s["position"], s["rate"], s["kernel"]) for s in found["sites"]} == {
        ("attention_weights", 0.4, "reference")
    }


def test_positions_outside_the_layers(capsys):
    _, found = examine(capsys, "minilm", "--meta", "--method", "output-dropout")
    assert list(found["totals"]) == ["output"]
    assert main(["doctor", "minilm", "--meta", "--method", "output-dropout"]) == 0


def test_method_without_noise(capsys):
    assert main(["doctor", "minilm", "--meta", "--method", "lora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no noise"
    assert lines[1].startswith("the model's own dropout: off, was 0.1 in 20 places (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./nowhere"], "a name on the hub or one of minilm, mpnet, smollm2, gemma3-270m, got"),
        (["no-such/model", "--meta"], "'no-such/model' could not be loaded"),
        (["minilm", "--method", "hiddenky"], "did you mean 'hiddenkey'?"),
        (["minilm", "--meta", "--layers", "6"], "layers must be below 6"),
        (["minilm", "--head", "x"], "--head must be one of classification, regression,"),
        (["minilm", "--meta", "--rates.output", "0.1"], "got a rate for 'output'"),
    ],
)  # fmt: skip
def test_refusals(words, message, capsys):
    assert main(["doctor", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("hiddenkey doctor: ")
    assert "Traceback" not in errors


def test_rates_and_a_file_exclude_each_other(capsys, tmp_path):
    hiddenkey.method("lora").save_pretrained(tmp_path)
    assert main(["doctor", "minilm", "--method", str(tmp_path), "--rate", "0.2"]) == 2
    assert "change the rates in the file" in capsys.readouterr().err
