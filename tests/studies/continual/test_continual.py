"""Tasks in sequence: what is forgotten, by hand; and a study from its words to its page."""

import json

import pytest
import torch

from continual import curriculum as tasks
from continual.forgetting import final_accuracy, forgetting, learnt_accuracy
from continual.options import ContinualOptions
from continual.training import accuracy, batches
from study_main import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

FOUND = [[0.9, 0.2, 0.3], [0.7, 0.8, 0.4], [0.6, 0.9, 0.7]]


def test_accuracy_and_forgetting_are_those_of_the_paper():
    assert final_accuracy(FOUND) == pytest.approx((0.6 + 0.9 + 0.7) / 3)
    assert learnt_accuracy(FOUND) == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert forgetting(FOUND) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9)) / 2)


@pytest.fixture
def folder(tmp_path):
    """Two tasks in the form of their distributions: classes are told by their words."""
    (tmp_path / "subj.all").write_text(
        "".join(f"{n % 2} {'dull' if n % 2 else 'good'} film number {n}\n" for n in range(60))
    )
    (tmp_path / "custrev.all").write_text(
        "".join(f"{n % 2} {'bad' if n % 2 else 'fine'} phone number {n}\n" for n in range(60))
    )
    return str(tmp_path)


def options(folder, **changes):
    values = {"tasks": ("subj", "cr"), "data": folder, "train_size": 16, "eval_size": 6}
    return ContinualOptions(**{**values, **changes})


def test_tasks_share_a_head_and_no_class(folder):
    found = tasks.load_curriculum(options(folder), 0)
    assert [stage.classes for stage in found.stages] == [(0, 2), (2, 4)]
    assert len(found.label_names) == len(set(found.label_names)) == 4
    for stage, own in zip(found.stages, ({0, 1}, {2, 3}), strict=True):
        assert {example.label for example in (*stage.train, *stage.evaluation)} == own
        assert (len(stage.train), len(stage.evaluation)) == (16, 6)
    other = tasks.load_curriculum(options(folder), 1)
    assert other.stages[0].train != found.stages[0].train
    assert other.stages[0].evaluation == found.stages[0].evaluation
    assert other.fingerprint() != found.fingerprint()
    assert tasks.load_curriculum(options(folder), 0).fingerprint() == found.fingerprint()


class Fixed(torch.nn.Module):
    """Returns the logits that it is given."""

    def forward(self, logits):
        return type("Output", (), {"logits": logits})


def test_accuracy_is_among_a_task_s_own_classes():
    logits = torch.tensor([[9.0, 9.0, 1.0, 2.0], [9.0, 9.0, 2.0, 1.0], [9.0, 9.0, 0.0, 1.0]])
    rows = [(row, label) for row, label in zip(logits, (3, 3, 3), strict=True)]

    def collate(chosen):
        own, labels = zip(*chosen, strict=True)
        return {"logits": torch.stack(own), "labels": torch.tensor(labels)}

    stage = tasks.Stage("cr", (), (), (2, 4))
    assert accuracy(Fixed(), rows, collate, stage) == pytest.approx(2 / 3)


def test_every_example_comes_once_before_any_comes_again():
    found = [number for chosen in batches(10, 4, 5, seed=0) for number in chosen]
    assert sorted(found[:10]) == sorted(found[10:]) == list(range(10))
    assert found != [number for chosen in batches(10, 4, 5, seed=1) for number in chosen]


@pytest.fixture
def words(tiny_model, folder, tmp_path):
    return [
        *("continual", "--tasks", "subj", "cr", "--data", folder, "--model", str(tiny_model)),
        *("--train-size", "16", "--eval-size", "6", "--steps", "2", "--batch-size", "8"),
        *("--max-length", "16", "--seeds", "3", "--output", str(tmp_path / "found")),
    ]


def test_from_words_to_runs_table_and_page(words, tmp_path, capsys, monkeypatch):
    few = [*words, "--methods", "lora", "hiddenkey", "temporal"]
    assert main([*few, "--dry-run"]) == 0
    assert "9 runs, 0 stored; the others take about" in capsys.readouterr().out
    assert main(few) == 0
    shown = capsys.readouterr().out
    assert "In sequence, forgetting: hiddenkey" in shown
    values = json.loads((tmp_path / "found" / "continual.json").read_text())
    assert {m: len(own) for m, own in values["accuracies"].items()} == {
        "lora": 3, "hiddenkey": 3, "temporal": 3,
    }  # fmt: skip
    assert all(len(row) == 2 for own in values["accuracies"].values() for run in own for row in run)
    page = (tmp_path / "found" / "continual.md").read_text()
    assert f"| lora | {final(values, 'lora'):.3f}" in page

    monkeypatch.setattr("continual.training.learn", lambda *_: pytest.fail("trained again"))
    assert main(few) == 0
    assert "9 runs, all of them stored" in capsys.readouterr().out


def final(values, method):
    runs = values["accuracies"][method]
    return sum(sum(run[-1]) / len(run[-1]) for run in runs) / len(runs)


def test_faults_are_told_together(words, capsys):
    assert main([*words, "--tasks", "stsb", "trek", "--methods", "lora", "lora"]) == 2
    said = capsys.readouterr().err
    assert "tasks must be of classes and have a name, got 'stsb'" in said
    assert "got 'trek'; did you mean 'trec'" in said
    assert "methods must be two different ones at least" in said
    assert main([*words, "--tasks", "subj"]) == 2
    assert "tasks must be two different ones at least" in capsys.readouterr().err
