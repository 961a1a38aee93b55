"""Plans of two claims on a random model: configurations of four steps, chosen by two runs each."""

from pathlib import Path

import pytest
import yaml

CLAIM = {
    "title": "DropKey beats LoRA",
    "paper": "It says so.",
    "how": "Two configurations.",
    "margin": 1,
    "tasks": {"mine": ["words"]},
    "configurations": {
        "lora": {},
        "dropkey": {},
        "strong": {"method": "dropkey", "rate": 0.5, "as": "lora"},
    },
    "contrasts": [
        {"name": "DropKey − LoRA", "weights": {"dropkey": 1, "lora": -1}},
        {"name": "strong − LoRA", "weights": {"strong": 1, "lora": -1}, "expect": "no better"},
    ],
    "pictures": [
        {
            "kind": "sweep",
            "title": "Metric over rate",
            "x": "rate",
            "series": {"DropKey": {0: "lora", 0.5: "strong"}},
        },
        {
            "kind": "grid",
            "title": "Both",
            "cells": {"DropKey": {"weak": "dropkey", "strong": "strong"}},
        },
        {"kind": "effects", "title": "Gain"},
    ],
}

COST = {
    "title": "DropKey costs nothing",
    "paper": "It says so.",
    "how": "Steps in turns.",
    "margin": 0,
    "tasks": {"mine": ["words"]},
    "configurations": {"dropkey": {}},
    "contrasts": [
        {
            "name": "DropKey / LoRA",
            "weights": {"dropkey": 1},
            "measure": "step time",
            "expect": "between",
            "low": 0.01,
            "high": 100,
        }
    ],
}


@pytest.fixture
def plans(tiny_options, tmp_path):
    """A folder of plans: claims C1 and C2, and the scale 'mine'."""
    folder = tmp_path / "plans"
    (folder / "scales").mkdir(parents=True)
    scale = {
        "summary": "a random model",
        "seeds": [0, 1],
        "repeats": 1,
        "power": {"deviation": 1, "source": "made up"},
        "common": {"batch_size": 8, "max_steps": 4, "evaluations": 2, "max_length": 16},
        "choices": {
            "learning_rates": [0.01, 0.02],
            "rates": [0.1],
            "seeds": [100],
            "methods": {"lora": {}, "dropkey": {}},
        },
        "tasks": {
            "words": {
                "task": "file",
                "model": tiny_options.model,
                "train_file": tiny_options.train_file,
                "eval_file": tiny_options.eval_file,
                "text_columns": ["text"],
                "train_size": 16,
                "validation": 8,
                "floor": 1,
            }
        },
    }
    write(folder / "c1.yaml", CLAIM)
    write(folder / "c2.yaml", COST)
    write(folder / "scales" / "mine.yaml", scale)
    return folder


def write(path: Path, content):
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def edit(path: Path, change):
    """Change a YAML file by a function of its content."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    write(path, content)
