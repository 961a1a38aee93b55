"""Lengths that cannot fit are refused with all other faults, before anything is loaded."""

import json
from dataclasses import replace

import pytest

from hiddenkey.lab.run.positions import position_faults
from hiddenkey.lab.run.preparation import validate


def folder_of(path, **config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_too_long_texts_are_one_of_the_faults(tiny_options):
    message = "max_length must be at most the model's 32 positions together, got 33; make one of"
    first, second = validate(replace(tiny_options, max_length=33, batch_size=0))
    assert first.startswith("batch_size must be")
    assert second.startswith(message)
    assert validate(replace(tiny_options, max_length=32)) == []


def test_generation_needs_room_beside_the_shortest_prompt(tiny_options, tiny_language_model):
    options = replace(
        tiny_options, model=str(tiny_language_model), task="completion", max_length=64
    )
    assert position_faults(replace(options, max_new_tokens=63)) == []
    (fault,) = position_faults(replace(options, max_new_tokens=64))
    assert fault.startswith("the longest prompt and max_new_tokens must be at most the model's 64")


@pytest.mark.parametrize(
    ("config", "places"),
    [
        ({"max_position_embeddings": 20}, 20),
        ({"model_type": "gpt2", "n_positions": 20}, 20),
        ({"text_config": {"max_position_embeddings": 20}}, 20),
        ({"model_type": "t5", "n_positions": 20}, None),
        ({"max_position_embeddings": "20"}, None),
        ({}, None),
    ],
)
def test_positions_are_read_from_the_folder(tiny_options, tmp_path, config, places):
    options = replace(tiny_options, model=folder_of(tmp_path / "model", **config), max_length=21)
    assert bool(position_faults(options)) == (places is not None)
    assert position_faults(replace(options, max_length=20)) == []


@pytest.mark.parametrize("model", ["no-such/model", "missing.gguf"])
def test_what_lies_elsewhere_is_left_to_the_loading(tiny_options, model):
    assert position_faults(replace(tiny_options, model=model, max_length=10**6)) == []


def test_the_bundled_encoder_has_512(tiny_options):
    assert position_faults(replace(tiny_options, model="minilm", max_length=512)) == []
    assert position_faults(replace(tiny_options, model="minilm", max_length=513))
