"""What is kept of earlier predictions, in checkpoints too."""

from __future__ import annotations

import logging

import pytest
import torch

from earlier_passes import change, without_noise
from hiddenkey import ConsistencyError
from hiddenkey.step.history import History
from hiddenkey.step.identity import Identities
from models import batch, step


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("llama", "causal")])
def test_a_stored_history_goes_on_bit_equal(family, task):
    inputs = batch(task, "right")
    model, attachment = without_noise(task, family)
    step(model, inputs)
    state = attachment.history.state_dict()
    change(model)
    expected, _ = step(model, inputs)
    again, other = without_noise(task, family)
    other.history.load_state_dict(state)
    change(again)
    assert step(again, inputs)[0] == expected
    assert other.history.bytes == attachment.history.bytes > 0


def kept(values: dict[int, float]) -> History:
    """Return a history with one number for each example, seen in the order given."""
    history = History()
    for key, value in values.items():
        who = Identities([key], [key], are_numbered=True)
        rows = torch.tensor(history.rows_of(who, [1]))
        history.read(rows, torch.zeros(1, 1))
        history.write(rows, torch.tensor([[value]]))
    return history


def test_of_several_processes_the_latest_prediction_counts():
    early, late = kept({1: 0.1, 2: 0.2}), kept({3: 0.3, 1: 0.4, 2: 0.5, 4: 0.6})
    merged = History()
    merged.load_state_dict(early.state_dict(), {}, late.state_dict())
    state = merged.state_dict()
    found = dict(zip(state["keys"].tolist(), state["values"].flatten().tolist(), strict=True))
    assert found == pytest.approx({1: 0.4, 2: 0.5, 3: 0.3, 4: 0.6})
    assert merged.passes == 4


@pytest.mark.parametrize("classes", [0, 3])
def test_a_stored_history_moves_to_where_the_model_is(classes):
    """A checkpoint is read on the CPU; ``meta`` stands for a GPU."""
    who = Identities([1, 2], [1, 2], are_numbered=False)
    stored = History()
    rows = torch.tensor(stored.rows_of(who, [1, 1]))
    stored.read(rows, torch.zeros(2, 4, dtype=torch.float64), classes)
    values = torch.arange(8.0, dtype=torch.float64).view(2, 4)
    stored.write(rows, values, torch.ones(2, classes).long() if classes else None)
    history = History()
    history.load_state_dict(stored.state_dict())
    there = torch.tensor(history.rows_of(who, [1, 1]))
    found, _ = history.read(there, torch.zeros(2, 4), classes)
    assert found.dtype == torch.float32
    assert found.equal(values.float())
    like = torch.empty(2, 4, device="meta")
    for tensor in history.read(there.to("meta"), like, classes):
        assert tensor is None or tensor.device == like.device
    history.write(
        there.to("meta"), like, torch.ones(2, classes, device="meta") if classes else None
    )


@pytest.mark.parametrize("rule", [None, 1, 3])
def test_predictions_of_a_version_that_recognised_otherwise_are_left_out(rule, caplog):
    own, other = kept({1: 0.1}).state_dict(), kept({2: 0.2}).state_dict()
    del other["rule"]
    if rule is not None:
        other["rule"] = torch.tensor([rule])
    history = History()
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        history.load_state_dict(own, other)
    assert history.state_dict()["keys"].tolist() == [1]
    assert "are of another version of hiddenkey" in caplog.text
    caplog.clear()
    history.load_state_dict(own, {})
    assert not caplog.text


@pytest.mark.parametrize(
    ("change_state", "fault"),
    [
        (lambda state: state.pop("ages"), "ages missing"),
        (lambda state: state.update(counts=state["counts"][:1]), "numbers of examples differ"),
        (lambda state: state.update(values=state["values"][:1]), "numbers of rows differ"),
    ],
)
def test_a_damaged_state_is_refused(change_state, fault):
    state = kept({1: 0.1, 2: 0.2}).state_dict()
    change_state(state)
    with pytest.raises(ConsistencyError, match=fault):
        History().load_state_dict(state)


def test_of_an_example_that_is_twice_in_a_batch_the_last_prediction_is_kept():
    """Whole: on a GPU two that write to one row at once would mix."""
    history = History()
    who = Identities([7, 8, 7], [7, 8, 7], are_numbered=False)
    rows = torch.tensor(history.rows_of(who, [1, 1, 1]))
    history.read(rows, torch.zeros(3, 2), classes=1)
    written = []
    setter = torch.Tensor.__setitem__
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda own, key, value: written.append(value) or setter(own, key, value)  # noqa: E731
        patch.setattr(torch.Tensor, "__setitem__", keep)
        history.write(rows, values, torch.tensor([[5], [6], [9]]))
    assert written[0].tolist() == [[4.0, 5.0], [2.0, 3.0], [4.0, 5.0]]
    assert written[-1].tolist() == [[9], [6], [9]]
    assert history.state_dict()["values"].tolist() == [[4.0, 5.0], [2.0, 3.0]]
