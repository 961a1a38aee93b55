import json

import pytest

from lab.report.synthetic import study
from studies.records import calibrated
from study_main import main


def store(folder, runs):
    for run in runs:
        run.save(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    runs = study(tasks=("cola",), chosen=("lora", "dropkey", "hiddenkey"), rates=(0.1,))
    runs = [calibrated(run, 0.2 if run.options["method"] == "lora" else 0.1) for run in runs]
    return store(tmp_path / "runs", runs)


def test_it_prints_a_table_and_writes_the_files(folder, tmp_path, capsys):
    output = tmp_path / "pages"
    words = ["overfitting", folder, "--output", str(output), "--methods", "hiddenkey"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    header = next(line for line in shown.splitlines() if line.strip().startswith("configuration"))
    assert header.split() == [
        "configuration", "seeds", "matthews", "gap", "loss", "gap", "matthews", "loss", "ece",
        "brier", "confidence",
    ]  # fmt: skip
    row = next(line.split() for line in shown.splitlines() if line.strip().startswith("hiddenkey"))
    assert row[:3] == ["hiddenkey", "6", "−0.070*"]
    assert row[6].startswith(("−0.1", "−0.09"))
    assert "cola: matthews gap lower with hiddenkey" in shown
    assert "dropkey" not in shown
    assert shown.rstrip().endswith(f"table, values and pictures: {output / 'overfitting.md'}")

    values = json.loads((output / "overfitting.json").read_text())
    task = values["tasks"][0]
    assert [quantity["name"] for quantity in task["quantities"]][4:] == [
        "ece", "brier", "confidence",
    ]  # fmt: skip
    compared = task["rows"][1]["endings"][4]["comparison"]
    assert compared["low"] < compared["difference"] < compared["high"] < 0
    assert 0 < compared["p_value"] <= compared["p_adjusted"] < 0.05
    page = (output / "overfitting.md").read_text()
    assert page.startswith("# Overfitting monitor\n")
    assert "](overfitting_cola.svg)" in page
    assert (output / "overfitting_cola.svg").read_text().startswith("<?xml")
    assert (output / "overfitting_cola.png").read_bytes().startswith(b"\x89PNG")


def test_folders_are_read_together_and_old_runs_are_said(folder, tmp_path, capsys):
    older = store(tmp_path / "older", study(rates=(0.1,), seeds=range(2)))
    assert main(["overfitting", folder, older, folder]) == 0
    shown = capsys.readouterr().out
    assert "4 of 4 runs of headlines were stored before evaluations measured calibration" in shown
    assert f"{folder}/analysis/overfitting.md" in shown


def test_faults_name_the_setting_and_the_next_step(folder, tmp_path, capsys):
    assert main(["overfitting"]) == 2
    assert "folders must name at least one comparison, got none" in capsys.readouterr().err
    assert main(["overfitting", str(tmp_path)]) == 2
    assert "must be one that 'hiddenkey compare' wrote" in capsys.readouterr().err
    assert main(["overfitting", folder, "--methods", "hiddenkay"]) == 2
    assert "got 'hiddenkay'; did you mean 'hiddenkey'" in capsys.readouterr().err
    failed = store(tmp_path / "failed", study(rates=(0.1,), seeds=(0,), error="no"))
    assert main(["overfitting", failed]) == 2
    said = capsys.readouterr().err
    assert "stage 'compare' that are step-matched, got 2 runs" in said


def test_a_folder_that_cannot_be_written_is_refused(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file" / "pages")
    assert main(["overfitting", folder, "--output", output]) == 2
    said = capsys.readouterr().err
    assert "output must be a folder that can be written" in said
    assert "name another with --output" in said
