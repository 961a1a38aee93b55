"""Predictions that a temporal loss compares with, over checkpoints and processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, IterableDataset

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, DropoutConfig
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.trainer import watch
from integrations.trainers import assert_same_weights, examples, logs, tiny_trainer, weights
from models import lora_model

TEMPORAL = DropoutConfig(
    hiddenkey.method("hiddenkey-minus", rate=0.3).drops, Consistency(target="history")
)
EPOCH = 6  # steps: 24 examples in batches of 4
FILE = "hiddenkey_history_0.safetensors"


def trained(folder: Path, task: str = "classification", **settings: Any) -> tuple[Any, Any]:
    """Train three epochs with a checkpoint at each fourth step."""
    config, callback = settings.pop("config", TEMPORAL), settings.pop("callback", False)
    resume = settings.pop("resume", None)
    model = lora_model("llama" if task == "causal" else "bert", task)
    made = tiny_trainer(
        model,
        folder,
        task,
        **{
            "train_dataset": examples(task, 24),
            "max_steps": 3 * EPOCH,
            "save_strategy": "steps",
            "save_steps": 4,
            "optim": "adamw_torch",
            "callbacks": [HiddenKeyCallback(config)] if callback else None,
            **settings,
        },
    )
    if not callback:
        watch(made, hiddenkey.attach(model, config))
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made, weights(model)


@pytest.mark.parametrize("callback", [False, True], ids=["watch", "callback"])
@pytest.mark.parametrize("task", ["classification", "causal"])
def test_a_resumed_run_ends_bit_equal(task, callback, tmp_path):
    """From the first epoch, and from the middle of the second."""
    made, expected = trained(tmp_path, task, callback=callback)
    compared = [log["consistency_loss"] for log in logs(made)]
    assert compared[:EPOCH] == [0] * EPOCH
    assert min(compared[EPOCH:]) > 0
    for step in (4, 8):
        found = load_file(tmp_path / f"checkpoint-{step}" / FILE)
        assert len(found["keys"]) == min(4 * step, 24)
        resume = tmp_path / f"checkpoint-{step}"
        again, got = trained(tmp_path / str(step), task, callback=callback, resume=resume)
        assert_same_weights(expected, got, rtol=0, atol=0)
        assert [log["consistency_loss"] for log in logs(again)] == compared


def test_accumulated_batches_are_one_batch(tmp_path):
    config = DropoutConfig(consistency=Consistency(target="history", weight=3.0))
    settings = {"config": config, "save_strategy": "no", "optim": "sgd"}
    _, whole = trained(tmp_path, "causal", per_device_train_batch_size=8, max_steps=9, **settings)
    _, parts = trained(
        tmp_path,
        "causal",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=9,
        **settings,
    )
    assert_same_weights(whole, parts, rtol=1e-4, atol=1e-6)


def test_another_data_set_is_refused_after_an_epoch(tmp_path):
    trained(tmp_path)
    others = examples("classification", 48)[24:]
    with pytest.raises(ConsistencyError, match="are of other examples than those of this training"):
        trained(
            tmp_path / "other", train_dataset=others, resume=tmp_path / "checkpoint-8", max_steps=24
        )


class Stream(IterableDataset):
    """Rows one after the other; nobody knows how many."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


class Indexed(Dataset):
    """Rows by number, of a class that names no columns."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        return self.rows[place]


def test_a_stream_is_gone_on_with_after_its_first_pass(tmp_path):
    """The passes over the data that a resumed run skips have no steps."""
    rows = examples("classification", 16)
    settings = {"max_steps": 12, "save_steps": 6}
    trained(tmp_path, train_dataset=Stream(rows), **settings)
    resume = tmp_path / "checkpoint-6"
    made, _ = trained(tmp_path / "again", train_dataset=Stream(rows), resume=resume, **settings)
    compared = [log["consistency_loss"] for log in logs(made)]
    assert len(compared) == 12
    assert min(compared[4:]) > 0
    others = Stream(examples("classification", 32)[16:])
    with pytest.raises(ConsistencyError, match="are of other examples than those of this training"):
        trained(tmp_path / "other", train_dataset=others, resume=resume, **settings)


class Augmented(Indexed):
    """Rows that are others each time, but for the first few."""

    def __getitem__(self, place: int) -> dict:
        row = dict(self.rows[place])
        if place >= KNOWN:
            row["input_ids"] = torch.randint(3, 50, row["input_ids"].shape)
        return row


KNOWN = 1


def test_an_epoch_whose_examples_are_hardly_recognised_is_warned_of_once(tmp_path, caplog):
    data = Augmented(examples("classification", 24))
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        trained(tmp_path, train_dataset=data, save_strategy="no")
    assert caplog.text.count("recognised 1 of the 24 examples of an epoch (4.2 %)") == 1
    assert caplog.text.count("of an epoch") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        trained(tmp_path, save_strategy="no")
    assert "of an epoch" not in caplog.text


@pytest.mark.parametrize("kind", [Indexed, Stream])
def test_numbers_that_trainer_would_drop_are_seen_in_any_data_set(kind, tmp_path):
    rows = [{**row, "example_index": torch.tensor(3)} for row in examples("classification", 8)]
    with pytest.raises(ConsistencyError, match="which Trainer drops, so that"):
        trained(tmp_path, train_dataset=kind(rows), max_steps=2)
    trained(tmp_path, train_dataset=kind(examples("classification", 8)), max_steps=2)


def test_a_file_that_an_older_run_of_more_processes_left_is_removed(tmp_path):
    stale = tmp_path / "checkpoint-4" / FILE.replace("0", "1")
    stale.parent.mkdir()
    save_file({"values": torch.zeros(1)}, stale)
    trained(tmp_path, max_steps=4)
    assert [path.name for path in stale.parent.glob("hiddenkey_history*")] == [FILE]


@pytest.mark.parametrize("callback", [False, True], ids=["watch", "callback"])
def test_numbers_that_trainer_would_drop_are_refused_and_others_are_used(callback, tmp_path):
    numbered = [
        {**row, "example_index": torch.tensor(7 * place)}
        for place, row in enumerate(examples("classification", 24))
    ]
    settings = {"train_dataset": numbered, "callback": callback, "max_steps": 2}
    with pytest.raises(ConsistencyError, match="which Trainer drops, so that"):
        trained(tmp_path, **settings)
    trained(tmp_path, **settings, remove_unused_columns=False, save_steps=2)
    found = load_file(tmp_path / "checkpoint-2" / FILE)
    assert len(found["keys"]) == 8
    assert {*found["keys"].tolist()} <= {7 * place for place in range(24)}


def test_a_damaged_file_is_refused(tmp_path):
    trained(tmp_path, max_steps=4)
    path = tmp_path / "checkpoint-4" / FILE
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ConsistencyError, match="cannot be read"):
        trained(tmp_path / "again", resume=path.parent)


def test_a_checkpoint_without_predictions_is_gone_on_from_with_a_warning(tmp_path, caplog):
    trained(tmp_path, max_steps=4)
    (tmp_path / "checkpoint-4" / FILE).unlink()
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        trained(tmp_path / "again", resume=tmp_path / "checkpoint-4")
    assert "holds no predictions" in caplog.text


def test_predictions_of_an_earlier_version_are_gone_on_without_and_with_a_warning(tmp_path, caplog):
    trained(tmp_path, max_steps=8)
    path = tmp_path / "checkpoint-8" / FILE
    kept = load_file(path)
    del kept["rule"]
    save_file({**kept, "keys": kept["keys"] + 1}, path)
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        made, _ = trained(tmp_path / "again", resume=path.parent)
    assert "are of another version of hiddenkey" in caplog.text
    compared = [log["consistency_loss"] for log in logs(made)][8:]
    assert compared[: EPOCH - 2] == [0] * (EPOCH - 2)  # the rest of the second epoch
    assert min(compared[EPOCH:]) > 0


@pytest.mark.parametrize("steps", [EPOCH, EPOCH + 1])
def test_a_training_that_compared_nothing_says_so(steps, tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "hiddenkey"):
        trained(tmp_path, max_steps=steps, save_strategy="no")
    assert ("compared nothing: of 24 examples none was seen twice" in caplog.text) == (
        steps == EPOCH
    )


def test_a_new_training_begins_without_the_last_ones_predictions(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, TEMPORAL)
    made = tiny_trainer(model, tmp_path, train_dataset=examples("classification", 24), max_steps=7)
    watch(made, attachment)
    for _ in range(2):
        made.train()
        compared = [log["consistency_loss"] for log in logs(made)]
        assert compared[:EPOCH] == [0] * EPOCH
        assert compared[EPOCH] > 0
    assert torch.isfinite(attachment.history.state_dict()["values"]).all()
