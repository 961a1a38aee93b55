import csv
import os
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hiddenkey.lab.run.options import TrainOptions

WORDS = [f"w{index}" for index in range(40)]
TOPICS = ("ant", "bee", "cat")


@pytest.fixture
def tiny_tokenizer():
    """A tokenizer of 47 words."""
    return build_tokenizer()


def build_tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *TOPICS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A random BERT of two layers, 16 wide, with a tokenizer of 47 words."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=47,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory):
    """A random LLaMA of two layers, 16 wide, with a tokenizer of 46 words."""
    folder = tmp_path_factory.mktemp("tiny") / "language-model"
    torch.manual_seed(0)
    vocabulary = {
        word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *TOPICS, *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def write_csv(path: Path, rows: int, seed: int) -> Path:
    """Texts of six words, one of which is the topic's own."""
    generator = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for index in range(rows):
            topic = TOPICS[index % 3]
            words = [*generator.sample(WORDS, generator.randint(2, 6)), topic]
            generator.shuffle(words)
            writer.writerow([" ".join(words), topic])
    return path


@pytest.fixture
def tiny_options(tiny_model, tmp_path):
    """Options of a run of 8 steps that takes about a second."""
    return TrainOptions(
        model=str(tiny_model),
        task="file",
        train_file=str(write_csv(tmp_path / "train.csv", 32, 1)),
        eval_file=str(write_csv(tmp_path / "eval.csv", 15, 2)),
        text_columns=("text",),
        label_column="label",
        rank=4,
        max_length=16,
        batch_size=8,
        max_steps=8,
        evaluations=2,
        learning_rate=1e-2,
        output=str(tmp_path / "run"),
    )


@pytest.fixture(scope="session")
def glue():
    """Folder of the real GLUE files, which are no part of the project."""
    given = os.environ.get("HIDDENKEY_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "rte").is_dir():
        message = f"no GLUE files in {folder}; set HIDDENKEY_DATA to their folder"
        if os.environ.get("HIDDENKEY_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
