from dataclasses import fields, replace

import pytest

from hiddenkey.lab.run.options import UNRECORDED, TrainOptions
from hiddenkey.lab.run.preparation import validate
from hiddenkey.lab.tasks import Source


def test_defaults_are_valid():
    assert validate(TrainOptions()) == []


def test_every_field_is_described():
    from docstring_parser import parse_from_object

    parsed = [*parse_from_object(Source).params, *parse_from_object(TrainOptions).params]
    described = {param.arg_name for param in parsed}
    assert described == {field.name for field in fields(TrainOptions)}


def test_paper_defaults():
    options = TrainOptions()
    assert (options.rank, options.lora_alpha, options.target_modules) == (8, 16, None)
    assert options.method == "hiddenkey"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0; give a larger number"),
        ({"train_size": 0}, "train_size must be at least 1, got 0; give a larger number"),
        ({"max_length": 3}, "max_length must be at least 4 tokens, got 3; 128 is usual"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0; 1e-3 is usual for LoRA"),
        ({"epochs": float("nan")}, "epochs must be above 0, got nan; give a larger number"),
        ({"warmup_ratio": 1.0}, "warmup_ratio must be in [0, 1), got 1.0; 0.06 is usual"),
        ({"lora_dropout": -0.1}, "lora_dropout must be in [0, 1), got -0.1; 0 switches it off"),
        ({"seed": -1}, "seed must be from 0 to 2**32 - 1, got -1; choose another"),
        (
            {"task": "headlin"},
            "task must be one of headlines, articles, cola, rte, sst2, stsb, mrpc, qnli,"
            " trec, subj, mr, cr, irony, emotion, clinc150, e2e, webnlg, file, completion, got"
            " 'headlin'; did you mean 'headlines'?",
        ),
        (
            {"task": "rte"},
            "task 'rte' needs the folder of its files, got no data; give --data FOLDER with"
            " FOLDER/rte/train.tsv in it, or --data hub",
        ),
        (
            {"data": "x"},
            "data is for tasks that are read from a folder, got 'x' with task 'headlines'; leave it"
            " out",
        ),
        (
            {"beams": 3},
            "beams is for tasks that generate text, got 3 with task 'headlines'; leave it out",
        ),
        (
            {"train_file": "a.csv"},
            "train_file is for task 'file', got 'a.csv' with task 'headlines'; use --task file or"
            " leave it out",
        ),
        (
            {"model": "./nowhere"},
            "model must be a folder, a name on the hub or one of minilm, mpnet, smollm2,"
            " gemma3-270m, got './nowhere'; no such folder exists, check the path",
        ),
        (
            {"resume": True, "overwrite": True},
            "resume and overwrite exclude each other, got both; leave one out",
        ),
        ({"prefix_tokens": 0, "adapter": "prefix"},
         "prefix_tokens must be at least 1, got 0; give a larger number"),
        (
            {"adapter": "ia3", "rank": 4},
            "rank is for the adapters lora and dora, got 4 with adapter 'ia3'; leave it out",
        ),
        (
            {"adapter": "full", "target_modules": ("key",)},
            "target_modules is for the adapters lora and dora and ia3, got ('key',) with adapter"
            " 'full'; leave it out",
        ),
        (
            {"prefix_tokens": 4},
            "prefix_tokens is for the adapters prefix, got 4 with adapter 'lora'; leave it out",
        ),
        (
            {"adapter": "prefix", "gradient_checkpointing": True},
            "gradient_checkpointing must be off with adapter 'prefix', whose keys and values come"
            " from a cache; leave one of them out",
        ),
        (
            {"task": "file", "train_file": "a.csv", "eval_file": "a.csv", "text_columns": ("text",),
             "label_names": ("", "a")},
            "label_names must be text, got ['', 'a']; correct them",
        ),
        (
            {"target_modules": ()},
            "target_modules must name a linear layer, got none; leave it out for key and value",
        ),
    ],
)  # fmt: skip
def test_rule_value_and_next_step(changes, message):
    assert validate(replace(TrainOptions(), **changes)) == [message]


def test_all_faults_come_together():
    options = TrainOptions(rank=0, epochs=-1, task="rte", model="a/b/c", batch_size=0)
    assert [fault.split()[0] for fault in validate(options)] == [
        "rank",
        "epochs",
        "batch_size",
        "task",
        "model",
    ]


def test_own_files_need_files_and_columns():
    faults = validate(TrainOptions(task="file"))
    assert [fault.split(",")[0] for fault in faults] == [
        "task 'file' needs train_file",
        "task 'file' needs text_columns",
        "task 'file' needs examples to evaluate on",
    ]
    crowded = TrainOptions(
        task="file",
        train_file="a.csv",
        eval_file="b.csv",
        text_columns=("a", "b", "label"),
        label_names=("x", "x"),
        regression=True,
    )
    assert [fault.split(" ")[0] for fault in validate(crowded)] == [
        "text_columns",
        "label_column",
        "label_names",
        "label_names",
    ]


def test_model_folder_without_a_config_is_refused(tmp_path):
    faults = validate(TrainOptions(model=str(tmp_path)))
    assert faults == [
        f"model must be a folder with a config.json, got {str(tmp_path)!r}; check the path"
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"method": "lora"}, "headlines-minilm-lora-seed0"),
        ({"adapter": "dora"}, "headlines-minilm-dora-hiddenkey-seed0"),
        ({"rate": 0.2, "learning_rate": 5e-4}, "headlines-minilm-hiddenkey-rate0.2-lr0.0005-seed0"),
        ({"rates": {"hidden": 0.3}, "seed": 4}, "headlines-minilm-hiddenkey-hidden0.3-seed4"),
        ({"model": "user/bert-mini"}, "headlines-user-bert-mini-hiddenkey-seed0"),
        ({"model": "/data/my models/bert"}, "headlines-bert-hiddenkey-seed0"),
        (
            {"task": "file", "train_file": "my data/tweets.csv", "text_columns": ("text",)},
            "tweets-minilm-hiddenkey-seed0",
        ),
        ({"task": "rte", "data": "glue", "also": ("cutoff",)}, "rte-minilm-hiddenkey+cutoff-seed0"),
    ],
)
def test_the_default_folder_says_what_differs(changes, name):
    assert TrainOptions(**changes).folder.as_posix() == f"runs/{name}"


def test_no_two_settings_share_a_default_folder():
    """Each setting that makes a run another one; where the data lies is no part of the name."""
    other = {
        "rates": {"hidden": 0.3}, "also": ("cutoff",), "layers": (1,), "target_modules": ("query",),
        "label_names": ("a", "b"), "report_to": ("tensorboard",), "adapter": "ia3",
        "scheduler": "cosine", "rate_decay": "linear", "rate_depth": "growing", "kernel": "fused",
        "precision": "bfloat16", "consistency_backward": "both", "consistency_precision": "same",
        "eval_split": "test", "keep": "best", "task": "articles", "model": "smollm2",
        "method": "lora", "label_column": "y",
    }  # fmt: skip
    unnamed = {*UNRECORDED, "data", "train_file", "eval_file", "text_columns"}
    names = [TrainOptions().folder.name]
    for field in fields(TrainOptions):
        if field.name not in unnamed:
            is_number = isinstance(field.default, int | float) and field.default is not True
            value = other.get(field.name, field.default + 1 if is_number else 0)
            names.append(replace(TrainOptions(), **{field.name: value}).folder.name)
    assert len(set(names)) == len(names) > 50
