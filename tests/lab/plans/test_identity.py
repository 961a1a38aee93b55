"""What makes runs the same, and what does not."""

import dataclasses
import json

import pytest
from packaging.version import Version

import hiddenkey
from hiddenkey.lab.plans import identity
from hiddenkey.lab.plans.identity import Run, changed, options_from
from hiddenkey.lab.run.options import TrainOptions

OPTIONS = TrainOptions(task="cola", data="here", rates={"hidden": 0.2}, layers=(0, 1), seed=3)


def test_identity_is_short_and_lasting():
    run = Run(OPTIONS, "data")
    assert len(run.id) == 16
    assert int(run.id, 16) >= 0
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))).id == run.id


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"rates": {"hidden": 0.3}},
        {"learning_rate": 2e-3},
        {"holdout": 0.1},
        {"validation": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_counts(changes):
    assert Run(OPTIONS, "data").id != Run(dataclasses.replace(OPTIONS, **changes), "data").id


def test_data_stage_budget_and_versions_count(monkeypatch):
    run = Run(OPTIONS, "data")
    others = [
        Run(OPTIONS, "other data"),
        Run(OPTIONS, "data", stage="search"),
        Run(OPTIONS, "data", budget="time"),
    ]
    ids = {run.id, *(other.id for other in others)}
    monkeypatch.setattr(identity, "versions", lambda: {"torch": "0"})
    ids.add(Run(OPTIONS, "data").id)
    assert len(ids) == 5


@pytest.mark.parametrize(
    "changes", [{"data": "there"}, {"output": "x"}, {"resume": True}], ids=lambda c: next(iter(c))
)
def test_places_do_not_count(changes):
    assert Run(OPTIONS, "data").id == Run(dataclasses.replace(OPTIONS, **changes), "data").id


def test_only_what_was_changed_is_stored():
    assert set(changed(OPTIONS)) == {"task", "data", "rates", "layers", "seed"}
    assert options_from(json.loads(json.dumps(changed(OPTIONS)))) == OPTIONS


@pytest.mark.parametrize(
    ("whole", "fraction"),
    [
        ({"epochs": 10}, {"epochs": 10.0}),
        ({"epochs": 3}, {"epochs": 3.0}),
        ({"rate": 0}, {"rate": 0.0}),
        ({"rates": {"hidden": 0}}, {"rates": {"hidden": 0.0}}),
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"consistency_weight": 1}, {"consistency_weight": 1.0}),
    ],
    ids=str,
)
def test_a_number_counts_and_not_how_it_was_written(whole, fraction):
    one, other = (Run(TrainOptions(**given), "data") for given in (whole, fraction))
    assert one.id == other.id
    assert Run.from_dict(one.to_dict()).id == one.id


def test_releases_that_train_alike_share_their_runs(monkeypatch):
    """What counts is since when; no release can be older than that."""
    before = Run(OPTIONS, "print").id
    monkeypatch.setattr(hiddenkey, "__version__", "9.9")
    identity.versions.cache_clear()
    assert Run(OPTIONS, "print").id == before
    monkeypatch.setattr(identity, "RUNS_SINCE", "9.9")
    identity.versions.cache_clear()
    assert Run(OPTIONS, "print").id != before
    monkeypatch.undo()
    identity.versions.cache_clear()
    assert Version(identity.RUNS_SINCE) <= Version(hiddenkey.__version__)
