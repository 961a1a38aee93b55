"""The runs behind a page in one file, and as a folder again."""

import dataclasses
import gzip
from pathlib import Path

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.identity import PATHS
from lab.report.synthetic import record
from records import pack, read_packed, unpack
from study_runs import StudyRuns

RECORDS = Path(__file__).parents[2] / "docs" / "results" / "records"


def saved(folder, *runs):
    for run in runs:
        run.save(folder)
    return folder


def without_platform(run):
    kept = {name: value for name, value in run.environment.items() if name != "platform"}
    return dataclasses.replace(run, environment=kept)


@pytest.fixture
def runs():
    environment = {"platform": "Linux-6.1-mine", "cpus": 2}
    made = (record(seed=seed) for seed in range(3))
    return sorted(
        (dataclasses.replace(run, environment=environment) for run in made), key=lambda run: run.id
    )


def test_what_was_packed_is_unpacked(tmp_path, runs):
    file = tmp_path / "runs.jsonl.gz"
    assert pack(saved(tmp_path / "there", *runs), file) == 3
    assert unpack(file, tmp_path / "here") == 3
    assert read_records(tmp_path / "here") == [without_platform(run) for run in runs]


def test_places_of_a_machine_are_not_packed(tmp_path, runs):
    options = {**runs[0].options, "data": "/home/me/glue", "train_file": "/home/me/mine.csv"}
    file = tmp_path / "runs.jsonl.gz"
    pack(saved(tmp_path / "there", dataclasses.replace(runs[0], options=options)), file)
    assert b"/home/me" not in gzip.decompress(file.read_bytes())
    (found,) = read_packed(file)
    assert found["id"] == runs[0].id
    assert found["options"]["data"] == "DATA_FOLDER"
    assert found["options"]["train_file"] == "mine.csv"


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.jsonl.gz")), ids=lambda file: file.name)
def test_what_is_published_names_no_place_of_a_machine(file):
    for found in read_packed(file):
        options = found.get("options") or {**found["settings"], "data": None}  # there a hash
        assert {options.get(name) for name in PATHS} <= {"DATA_FOLDER", None}
        assert "platform" not in found["environment"]


def test_it_grows_over_several_folders(tmp_path, runs):
    """Evidence of several nights, each on a new machine."""
    file, again = tmp_path / "runs.jsonl.gz", tmp_path / "again.jsonl.gz"
    assert pack(saved(tmp_path / "first", *runs[:2]), file) == 2
    assert pack(saved(tmp_path / "second", *runs[1:]), file) == 3
    pack(saved(tmp_path / "all", *runs), again)
    assert file.read_bytes() == again.read_bytes()


def test_a_failure_elsewhere_does_not_replace_a_finished_run(tmp_path, runs):
    file = tmp_path / "runs.jsonl.gz"
    pack(saved(tmp_path / "there", runs[0]), file)
    failed = dataclasses.replace(runs[0], status="failed", result=None, error="out of memory")
    pack(saved(tmp_path / "elsewhere", failed, runs[1]), file)
    unpack(file, tmp_path / "here")
    assert read_records(tmp_path / "here") == [without_platform(run) for run in runs[:2]]


def test_a_folder_without_records_leaves_the_file_as_it_is(tmp_path, runs):
    file = tmp_path / "runs.jsonl.gz"
    pack(saved(tmp_path / "there", *runs), file)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="must be one that 'hiddenkey compare' wrote"):
        pack(tmp_path / "nothing", file)
    assert file.read_bytes() == before


SETTINGS = {"task": "headlines", "seed": 1, "data": "a hash"}


def test_runs_of_a_study_go_on_elsewhere(tmp_path):
    made = StudyRuns(tmp_path / "there" / "runs").run(SETTINGS, lambda: {"points": [1.5, "größer"]})
    file = tmp_path / "runs.jsonl.gz"
    assert pack(tmp_path / "there", file) == 1
    assert unpack(file, tmp_path / "here") == 1
    found = StudyRuns(tmp_path / "here" / "runs").find(SETTINGS)
    kept = {name: value for name, value in made.environment.items() if name != "platform"}
    assert found == dataclasses.replace(made, environment=kept)


def test_a_broken_run_of_a_study_is_named(tmp_path):
    StudyRuns(tmp_path / "runs").run(SETTINGS, dict)
    (path,) = tmp_path.glob("runs/*.json")
    path.write_text("{")
    with pytest.raises(ConfigError, match=rf"{path.name}: not a whole run .*; delete it"):
        pack(tmp_path, tmp_path / "runs.jsonl.gz")
