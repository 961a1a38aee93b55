"""Networks without attention: equal effort, equal starts, and a study that goes on."""

import json

import pytest
import torch
from torch.nn import functional as F

from beyond_transformers import command
from beyond_transformers.data import Data, Examples, encode, load, vocabulary
from beyond_transformers.networks import build
from beyond_transformers.training import (
    METHODS,
    PLAIN,
    Setting,
    batches,
    choose,
    fit,
    grid,
    rise_and_fall,
)
from study_main import main

NETWORKS = ("recurrent", "convolutional")


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def examples(network, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 3
    if network == "convolutional":
        images = torch.rand(count, 1, 8, 8, generator=generator) + classes.view(-1, 1, 1, 1)
        return Examples({"pixels": images}, classes)
    ids = torch.randint(2, 12, (count, 6), generator=generator)
    ids[:, 4:] = 0
    return Examples({"input_ids": ids, "attention_mask": (ids != 0).long()}, classes)


def tiny(network):
    parts = (examples(network, count, seed) for seed, count in enumerate((24, 12, 18)))
    return Data(*parts, words=12, classes=3)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_method_may_choose_from_as_many_settings(network):
    assert {len(set(grid(network, method))) for method in METHODS} == {8}
    assert {s.rate > 0 for method in METHODS[1:] for s in grid(network, method)} == {True}
    assert {s.rate for s in grid(network, PLAIN)} == {0.0}


@pytest.mark.parametrize("network", NETWORKS)
def test_each_pattern_changes_what_is_learnt_from_the_same_start(network):
    data = tiny(network)
    assert torch.equal(weights(build(network, 12, 3, 4)), weights(build(network, 12, 3, 4)))
    losses = {
        method: fit(Setting(network, method, 1e-2, 0.5), data, data.test, 0, 3, 8)["loss"]
        for method in METHODS
    }
    assert len(set(losses.values())) == len(METHODS)
    again = fit(Setting(network, "span", 1e-2, 0.5), data, data.test, 0, 3, 8)
    assert again["loss"] == losses["span"]


def test_plain_training_is_adamw_with_the_schedule():
    """The same three steps by hand, from the same weights and on the same rows."""
    data = tiny("convolutional")
    found = fit(Setting("convolutional", PLAIN, 1e-2), data, data.test, 5, 3, 8)
    model = build("convolutional", 0, 3, 5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    for step, rows in enumerate(batches(24, 8, 3, 5)):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1.0, 1.0, 0.5)[step]
        optimiser.zero_grad()
        logits = model(data.train.inputs["pixels"][rows])
        F.cross_entropy(logits, data.train.classes[rows]).backward()
        optimiser.step()
    loss = F.cross_entropy(model(**data.test.inputs), data.test.classes)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_learning_rate_rises_for_a_tenth_and_goes_down_to_zero():
    shares = [rise_and_fall(step, 100) for step in range(101)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0)


def test_the_lowest_mean_loss_is_chosen():
    settings = grid("recurrent", PLAIN)[:2] + grid("recurrent", "span")[:2]
    losses = [(0.3, 0.5), (0.2, 0.5), (0.9, 0.1), (0.4, 0.7)]
    found = {s: [{"loss": x} for x in own] for s, own in zip(settings, losses, strict=True)}
    assert choose(found) == {PLAIN: settings[1], "span": settings[2]}


def test_texts_become_words_padding_and_unknown():
    known = vocabulary(["Rates rise", "rise, again"])
    assert known == {"rates": 2, "rise": 3, ",": 4, "again": 5}
    found = encode(["Again rise!", ""], known, [1, 0])
    assert found.inputs["input_ids"][:, :4].tolist() == [[5, 3, 1, 0], [1, 0, 0, 0]]
    assert found.inputs["attention_mask"].sum(1).tolist() == [3, 1]


def test_digits_are_split_without_overlap():
    pytest.importorskip("sklearn")
    data = load("convolutional", 200)
    parts = (data.train, data.validation, data.test)
    assert [len(part.classes) for part in parts] == [200, 500, 797]
    keys = [{tuple(image.flatten().tolist()) for image in p.inputs["pixels"]} for p in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 1497


@pytest.fixture
def words(monkeypatch, tmp_path):
    monkeypatch.setattr("beyond_transformers.data.load", lambda network, size: tiny(network))
    return [
        *("beyond_transformers", "--seeds", "3", "--choice-seeds", "1", "--steps", "2"),
        *("--batch-size", "8", "--output", str(tmp_path)),
    ]


def test_from_words_to_runs_table_and_page(words, tmp_path, capsys, monkeypatch):
    assert main([*words, "--dry-run"]) == 0
    assert "88 runs, 0 stored; the others take about" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "recurrent, accuracy: element" in shown
    page = (tmp_path / "beyond_transformers.md").read_text()
    values = json.loads((tmp_path / "beyond_transformers.json").read_text())
    assert [grid["name"] for grid in values["grids"]] == [*NETWORKS]
    assert "| plain |" in page
    stored = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    assert len(stored) == 2 * 4 * (8 + 3)
    tests = [run for run in stored if run["settings"]["stage"] == "test"]
    assert {(run["settings"]["network"], run["settings"]["method"]) for run in tests} == {
        (network, method) for network in NETWORKS for method in METHODS
    }

    monkeypatch.setattr("beyond_transformers.training.fit", lambda *_: pytest.fail("trained again"))
    assert main(words) == 0
    assert "88 runs, all of them stored" in capsys.readouterr().out


def test_faults_are_told(words, capsys):
    assert main([*words, "--seeds", "2"]) == 2
    assert "seeds must be at least 3, got 2" in capsys.readouterr().err
    assert command.FIRST_CHOICE_SEED > 8  # no seed is in both stages
