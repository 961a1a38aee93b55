"""What experiment trackers call a run, with stand-ins for their packages."""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from hiddenkey import ConfigError
from hiddenkey.lab.run import trackers
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train

NAME = "file, hiddenkey rate 0.2, seed 3"


def stand_in(monkeypatch, name, **content):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin="here")
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def options(tiny_options):
    return replace(tiny_options, method="hiddenkey", rate=0.2, seed=3, max_steps=2, evaluations=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", "got 'wandb', whose package is missing; run: pip install wandb"),
        ("tensorbord", "got 'tensorbord'; did you mean 'tensorboard'"),
    ],
)
def test_what_is_not_there_is_refused_with_all_other_faults(
    options, monkeypatch, tmp_path, name, message
):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(ConfigError) as caught:
        prepare(replace(options, report_to=(name,), batch_size=0))
    assert len(caught.value.faults) == 2
    assert message in caught.value.faults[1]


def test_the_folder_that_a_tracker_leaves_is_not_its_package(options, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda package: ModuleSpec(package, None))
    assert trackers.tracker_faults(["wandb"])
    assert trackers.tracker_faults(["azure_ml", "none"]) == []


def test_trainers_settings_hold_the_name_and_the_parameters(options):
    seen = {}

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            seen.update(args.to_dict())

    train(options, callbacks=[Look()])
    assert seen["run_name"] == NAME
    assert seen["project"] == "hiddenkey"
    assert (seen["hiddenkey_task"], seen["hiddenkey_method"]) == ("file", "hiddenkey")
    assert seen["hiddenkey_rate"] == 0.2
    train(replace(options, output=options.output + "2", seed=4), callbacks=[Look()], name="mine")
    assert seen["run_name"] == "mine"


class Writer:
    """A stand-in of TensorBoard's SummaryWriter."""

    folders: list = []  # noqa: RUF012

    def __init__(self, log_dir):
        self.folders.append(log_dir)

    def __getattr__(self, name):
        return lambda *_, **__: None


def test_tensorboards_folder_has_the_name(options, monkeypatch):
    Writer.folders.clear()
    monkeypatch.setattr(
        trackers, "find_spec", lambda package: ModuleSpec(package, None, origin="x")
    )
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    train(replace(options, report_to=("tensorboard",)))
    (folder,) = Writer.folders
    assert folder.endswith(f"checkpoints/tensorboard/{NAME}")


class Wandb:
    """A stand-in of the module wandb: a run, and what was said to it."""

    def __init__(self):
        self.run = None
        self.runs = []

    def init(self, **settings):
        self.run = self
        self.runs.append({**settings, "config": {}, "finished": False})

    def finish(self):
        self.runs[-1]["finished"] = True
        self.run = None


class WandbCallback(TrainerCallback):
    """What transformers' callback does with the module."""

    def on_train_begin(self, args, state, control, **_):
        wandb = sys.modules["wandb"]
        if wandb.run is None:
            wandb.init(name=args.run_name)
        wandb.runs[-1]["config"].update(args.to_dict())


def test_each_training_of_a_process_has_a_run_of_its_own_at_wandb(options, monkeypatch):
    environment = {}
    monkeypatch.setattr(trackers, "os", SimpleNamespace(environ=environment))
    monkeypatch.setattr(
        trackers, "find_spec", lambda package: ModuleSpec(package, None, origin="x")
    )
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", WandbCallback)
    for seed in (3, 4):
        own = replace(options, seed=seed, report_to=("wandb",), output=f"{options.output}{seed}")
        train(own)
    assert [run["name"] for run in wandb.runs] == [NAME, NAME.replace("3", "4")]
    assert all(run["finished"] for run in wandb.runs)
    assert wandb.runs[0]["config"]["hiddenkey_method"] == "hiddenkey"
    assert environment["WANDB_PROJECT"] == "hiddenkey"
    wandb.init(name="of the caller")
    train(replace(options, seed=5, report_to=("wandb",), output=f"{options.output}5"))
    assert wandb.runs[-1]["name"] == "of the caller"
    assert not wandb.runs[-1]["finished"]
