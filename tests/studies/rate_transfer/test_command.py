import dataclasses
import json

import pytest

from studies.records import rate_runs
from study_main import main

GAINS = {task: {0.05: 0.0, 0.1: 0.03, 0.2: 0.01} for task in ("cola", "rte", "sst2")}


def store(folder, runs):
    for run in runs:
        run.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return store(tmp_path_factory.mktemp("rates"), rate_runs(GAINS, seeds=range(5)))


def test_it_prints_tables_and_writes_the_files(folder, tmp_path, capsys):
    assert main(["rate_transfer", folder, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for heading in (
        "hiddenkey-minus: one rate or several, means over 3 tasks",
        "hiddenkey-minus: rates by task",
        "hiddenkey-minus: points above lora, by rate and task",
        "Recommended rate for hiddenkey-minus: 0.1, the best mean over cola, rte and sst2",
    ):
        assert heading in shown
    assert shown.rstrip().endswith(f"tables, values and picture: {tmp_path / 'transfer.md'}")
    values = json.loads((tmp_path / "transfer.json").read_text())
    assert (values["common"], values["rates"], values["stage"]) == (
        0.1,
        [0.05, 0.1, 0.2],
        "compare",
    )
    judged = next(one for one in values["judged"] if one["rule"] == "common")
    assert judged["gain"]["low"] < 3 < judged["gain"]["high"]
    assert len(judged["gains"]) == 5
    page = (tmp_path / "transfer.md").read_text()
    assert page.startswith("# Does hiddenkey-minus's rate transfer?\n\nRecommended rate")
    assert "](transfer.svg)" in page
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")


def test_tasks_and_method_can_be_chosen(folder, tmp_path, capsys):
    words = ["rate_transfer", folder, "--output", str(tmp_path)]
    assert main([*words, "--tasks", "cola", "sst2"]) == 0
    assert "means over 2 tasks" in capsys.readouterr().out
    assert main([*words, "--tasks", "cola"]) == 2
    assert (
        "on at least two tasks, got cola at 0.05, 0.1 and 0.2 (complete" in capsys.readouterr().err
    )
    assert main([*words, "--method", "dropkey"]) == 2
    assert "dropkey must have runs at two common rates" in capsys.readouterr().err


def test_runs_that_chose_settings_can_be_read_instead(tmp_path, capsys):
    runs = [dataclasses.replace(run, stage="search") for run in rate_runs(GAINS, seeds=range(2))]
    folder = store(tmp_path, runs)
    assert main(["rate_transfer", folder]) == 2
    assert "must hold finished runs of stage 'compare'" in capsys.readouterr().err
    assert main(["rate_transfer", folder, "--stage", "search"]) == 0
    assert "means over 3 tasks" in capsys.readouterr().out
