"""What a launch is told, and the environment that carries it."""

import json
import os
import subprocess
import sys

import pytest

from hiddenkey import ConfigError
from hiddenkey.launch import LaunchSettings, launch_environment, why_unattached
from hiddenkey.launch.settings import VARIABLE, read_environment

ALL = LaunchSettings(
    "hiddenkey", 0.2, {"hidden": 0.3}, consistency_weight=0.5, consistency_every=2, layers=(0, 2),
    keep_model_dropout=True, kernel="reference", inference="average", average_part=0.25,
    step_cost=True,
)  # fmt: skip


def test_the_settings_are_a_configuration():
    config = ALL.config()
    assert [(drop.position, drop.rate) for drop in config.drops] == [
        ("attention_logits", 0.2),
        ("hidden", 0.3),
    ]
    assert (config.consistency.kind, config.consistency.weight) == ("kl", 0.5)
    assert (config.consistency.every, config.layers) == (2, (0, 2))
    assert config.keep_model_dropout


def test_the_environment_carries_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "before")
    found = launch_environment(ALL, tmp_path / "record")
    assert found["PYTHONPATH"].endswith(os.pathsep + "before")
    assert set(found) == {VARIABLE, "PYTHONPATH"}
    monkeypatch.setenv(VARIABLE, found[VARIABLE])
    assert read_environment() == (ALL, tmp_path / "record")
    assert json.loads(found[VARIABLE])["settings"]["layers"] == [0, 2]


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (LaunchSettings("hiddenky"), ["did you mean 'hiddenkey'"]),
        (LaunchSettings("hiddenkey", rate=1.5), ["rate must be in [0, 1), got 1.5"]),
        (LaunchSettings("dropkey", rates={"hidden": 0.1}), ["got a rate for 'hidden'"]),
        (
            LaunchSettings("dropkey", consistency_weight=1.0, layers=(-1,), kernel="fast"),
            [
                "has no consistency loss, got consistency_weight=1.0",
                "layers must hold",
                "kernel must",
            ],
        ),
        (LaunchSettings("hiddenkey", consistency_every=0), ["consistency.every must be"]),
        (
            LaunchSettings("lora", rate=2, inference="mean", average_part=0, ema_decay=1.0),
            ["rate must be", "inference must be one of", "part of an average", "decay of an ema"],
        ),
    ],
    ids=["name", "rate", "position", "several", "every", "inference"],
)
def test_all_faults_are_told_before_anything_starts(settings, messages, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        launch_environment(settings, tmp_path / "record")
    assert len(refusal.value.faults) == len(messages)
    for message in messages:
        assert message in str(refusal.value)
    assert not (tmp_path / "record").exists()


def test_how_far_a_command_came_is_told(tmp_path):
    stages = [
        (".imported", "imported by a Python that reads PYTHONPATH"),
        (".built", "no Trainer of transformers or Lightning was built"),
        ("attached.json", "a Trainer was built and never trained"),
    ]
    for name, message in stages:
        assert message in why_unattached(tmp_path)
        (tmp_path / name).touch()
    assert why_unattached(tmp_path) is None


def test_a_python_that_never_trains_loads_nothing(tmp_path):
    environment = {**os.environ, **launch_environment(ALL, tmp_path)}
    code = "import sys, json; print(json.dumps(sorted(sys.modules)))"

    def loaded(environment):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )
        return set(json.loads(done.stdout))

    assert loaded(environment) - loaded(dict(os.environ)) <= {"sitecustomize"}


def test_importing_the_room_does_not_import_torch():
    code = "import sys, hiddenkey.launch; assert 'torch' not in sys.modules"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)
