"""A study and run folders that version 0.1.0 wrote before its rooms were named anew.

Two runs of ``data/study_0_1`` are finished, one was interrupted at a checkpoint, one waits.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import hiddenkey
from hiddenkey.cli.arguments import parse
from hiddenkey.cli.main import main
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans import identity
from hiddenkey.lab.plans.identity import options_from
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.training import train
from lab.compare.driver import begin, finish

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
DATA = Path(__file__).parent / "data" / "study_0_1"
FINISHED = ("bb5fb264d373d271", "e0b2b64be3c62ea5")
INTERRUPTED = "41ecc473195c2c10"


@pytest.fixture
def study(tmp_path, tiny_model, monkeypatch):
    """A copy of the study beside the model and the data that its plan names; the current folder."""
    shutil.copytree(DATA, tmp_path / "work")
    shutil.copytree(tiny_model, tmp_path / "work" / "model")
    monkeypatch.chdir(tmp_path / "work")
    before = json.loads((DATA / "study/runs" / FINISHED[0] / "environment.json").read_text())
    monkeypatch.setattr(identity, "version", before.__getitem__)  # other versions begin anew
    monkeypatch.setattr(hiddenkey, "__version__", "9.9")  # a release that trains as before
    identity.versions.cache_clear()
    yield Path("study")
    identity.versions.cache_clear()


@pytest.fixture
def plan():
    return replace(parse(Plan, "compare", ["--config", str(DATA / "plan.yaml")]), report=False)


def test_a_study_is_opened_and_goes_on_where_it_stood(study, plan):
    stored = {name: (study / "records" / f"{name}.json").read_text() for name in FINISHED}
    records = {record.id: record for record in finish(begin(plan)).records()}
    assert len(records) == 4
    assert {record.status for record in records.values()} == {"finished"}
    assert records[INTERRUPTED].attempts == 2
    assert [line["step"] for line in records[INTERRUPTED].metrics] == [2, 4]
    for name, text in stored.items():
        assert (study / "records" / f"{name}.json").read_text() == text, "it was not run again"


def test_a_study_is_reported(study):
    assert main(["report", str(study), "--baseline", "lora"]) == 0
    assert (study / "report" / "report.html").is_file()


def test_run_folders_are_read_and_resumed(study):
    for record in read_records(study):
        folder = study / "runs" / record.id
        options = options_from(yaml.safe_load((folder / "config.yaml").read_text()))
        found = train(replace(options, output=str(folder), resume=True))
        assert found == record.result == Result.load(folder)
    folder = study / "runs" / INTERRUPTED
    options = options_from(yaml.safe_load((folder / "config.yaml").read_text()))
    assert train(replace(options, output=str(folder), resume=True)).steps == 4
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    before = (DATA / folder / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == before[0], "step 2 was not trained again"
