import contextlib
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
)

from hiddenkey import ConfigError
from hiddenkey.cli.arguments import parse
from hiddenkey.cli.main import main
from hiddenkey.lab.run.adapters import key_value_modules, lora_config, trainable_counts
from hiddenkey.lab.run.building import build_model
from hiddenkey.lab.run.encoding import encode
from hiddenkey.lab.run.models import load_model, refuse_long_texts
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train
from hiddenkey.lab.tasks import TASKS, Example

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
RECIPES = Path(__file__).parents[3] / "recipes"

ROBERTA_LARGE = RobertaConfig(
    vocab_size=50265,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
    type_vocab_size=1,
)
GPT2_MEDIUM = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
LLAMA2_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
)


def on_meta(config, kind="classification"):
    auto = AutoModelForCausalLM if kind == "generation" else AutoModelForSequenceClassification
    with torch.device("meta"):
        return auto.from_config(config)


PAPER = {
    "roberta_large": (ROBERTA_LARGE, "roberta-large", 786_432),
    "gpt2_medium": (GPT2_MEDIUM, "gpt2-medium", 393_216),
    "llama2_7b": (LLAMA2_7B, "meta-llama/Llama-2-7b-hf", 4_194_304),
}
OF_THE_PAPER = [
    path.stem for path in sorted(RECIPES.glob("*.yaml")) if path.stem.startswith((*PAPER,))
]


def test_the_paper_has_a_recipe_for_each_model_and_task():
    glue = {f"roberta_large_{task}" for task in ("sst2", "rte", "mrpc", "stsb", "cola", "qnli")}
    llama = {f"llama2_7b_{task}" for task in ("rte", "mrpc", "e2e")}
    assert glue | llama | {"gpt2_medium_e2e", "gpt2_medium_webnlg"} <= set(OF_THE_PAPER)


@pytest.mark.parametrize("recipe", OF_THE_PAPER)
def test_recipes_have_the_papers_trainable_parameters(recipe):
    options = parse(TrainOptions, "train", ["--config", str(RECIPES / f"{recipe}.yaml")])
    (family,) = (family for family in PAPER if recipe.startswith(family))
    config, name, parameters = PAPER[family]
    assert options.model == name
    assert recipe == f"{family}_{options.task}"
    kind = TASKS[options.task].kind
    model = on_meta(config, kind)
    counts = trainable_counts(get_peft_model(model, lora_config(model, options, kind)))
    assert counts["adapter"] == parameters
    # what the default rule finds is what the recipe names
    assert key_value_modules(on_meta(config, kind)) == list(options.target_modules)


def test_labels_and_task_reach_the_model(tiny_model):
    model, _ = load_model(str(tiny_model), "classification", ("no", "yes"), "float32")
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.problem_type == "single_label_classification"
    regressor, _ = load_model(str(tiny_model), "regression", (), "float32")
    assert (regressor.config.num_labels, regressor.config.problem_type) == (1, "regression")


def test_padding_token_is_given_where_the_tokenizer_has_none(tmp_path, tiny_tokenizer):
    config = GPT2Config(vocab_size=47, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    model, loaded = load_model(str(tmp_path), "classification", ("a", "b"), "float32")
    assert loaded.pad_token == "[SEP]"
    assert model.config.pad_token_id == loaded.pad_token_id
    assert lora_config(model, TrainOptions()).fan_in_fan_out


def test_pickled_weights_are_refused(tiny_model, tmp_path):
    for file in tiny_model.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"could not be loaded .*safetensors"):
        load_model(str(tmp_path), "classification", ("a", "b"), "float32")


def test_unknown_hub_name_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="'no-such/model' could not be loaded") as caught:
        load_model("no-such/model", "classification", ("a", "b"), "float32")
    assert len(caught.value.faults) == 1
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_configuration_are_no_new_random_numbers(
    tiny_options, tmp_path
):
    folder = tmp_path / "other"
    shutil.copytree(tiny_options.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"could not be loaded .*has another shape than config"):
        load_model(str(folder), "classification", ("a", "b"), "float32")


@pytest.fixture
def with_own_code(tiny_options, tmp_path, monkeypatch):
    """A model whose folder brings code along, which leaves a mark when it runs."""
    folder = tmp_path / "own"
    shutil.copytree(tiny_options.model, folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "code.OwnConfig", "AutoModelForSequenceClassification": "code.OwnModel"}
    config |= {"model_type": "own", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "ran"
    (folder / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(mark)!r}).touch()\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(str(tmp_path / "m"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    return str(folder), mark


def test_code_that_a_model_brings_along_is_not_run(with_own_code, capsys):
    folder, mark = with_own_code
    with pytest.raises(ConfigError, match=r"brings code of its own .* --trust-remote-code; read"):
        load_model(folder, "classification", ("a", "b"), "float32")
    assert main(["doctor", folder]) == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    assert sys.stdin.read(2) == "y\n", "nothing was asked"
    assert not mark.exists()


def test_code_that_is_trusted_is_run(with_own_code):
    folder, mark = with_own_code
    model, _ = load_model(folder, "classification", ("a", "b"), "float32", trusted=True)
    assert type(model).__name__ == "OwnModel"
    assert mark.exists()


@pytest.mark.parametrize("size", [0, 4, 100, 3000, -1])
def test_a_truncated_model_is_one_sentence(tiny_options, tmp_path, capsys, size):
    folder = shutil.copytree(tiny_options.model, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"could not be loaded \(.+\); check its files"):
        train(replace(tiny_options, model=str(folder)))
    assert main(["doctor", str(folder)]) == 2
    assert "could not be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"vocab_size": "x"}', "\x00", '{"model": 1}'])
def test_a_damaged_model_folder_is_one_sentence(tiny_options, tmp_path, name, content):
    folder = shutil.copytree(tiny_options.model, tmp_path / "damaged")
    (folder / name).write_text(content)
    with contextlib.suppress(ConfigError):  # some are whole enough
        build_model(replace(tiny_options, model=str(folder)), prepare(tiny_options))


def test_a_text_fits_into_the_models_positions(tiny_options):
    message = "max_length must be at most the model's 32 positions together, got 33; make"
    with pytest.raises(ConfigError, match=message):
        train(replace(tiny_options, max_length=33))
    options = replace(tiny_options, adapter="prefix", rank=8, prefix_tokens=20)
    message = (
        "prefix_tokens and max_length must be at most the model's 32 positions together, got 20"
    )
    with pytest.raises(ConfigError, match=message):
        train(options)


def test_roberta_counts_from_behind_its_padding(tmp_path, tiny_tokenizer):
    config = RobertaConfig(
        vocab_size=47,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    refuse_long_texts(model, tiny_tokenizer, TrainOptions(max_length=18))
    with pytest.raises(ConfigError, match="the model's 18 positions together, got 19"):
        refuse_long_texts(model, tiny_tokenizer, TrainOptions(max_length=19))


def test_generated_texts_fit_too(tiny_language_model):
    model, tokenizer = load_model(str(tiny_language_model), "generation", (), "float32")
    options = TrainOptions(max_length=64, max_new_tokens=60)
    refuse_long_texts(model, tokenizer, options, ["w1 w2"])
    with pytest.raises(ConfigError, match="the longest prompt and max_new_tokens must be at most"):
        refuse_long_texts(model, tokenizer, options, ["w1 w2", "w1 " * 10])


def test_texts_without_a_token_are_refused(tiny_options, tmp_path, tiny_tokenizer):
    examples = [Example(("w1 w2",), 0), Example(("\t",), 1), Example(("",), 1)]
    message = r"every text must have a token of the model's, 2 of 3 have none, the first is \('\\t'"
    with pytest.raises(ConfigError, match=message):
        encode(examples, tiny_tokenizer, 16, "classification")
    pairs = [Example(("w1", ""), 0), Example(("", ""), 0)]
    with pytest.raises(ConfigError, match="1 of 2 have none"):
        encode(pairs, tiny_tokenizer, 16, "classification")
