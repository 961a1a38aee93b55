"""Stored records, results and times from mutated and damaged files."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.values import damaged, fuzzed, mutated, refusal
from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.costs import FILE, StepTimes, read_step_times, write_step_times
from hiddenkey.lab.evidence.record import FOLDER, Record, read_records
from hiddenkey.lab.report import tabulate
from lab.report.synthetic import record

RUNS = [record(seed=0), record(method="hiddenkey", seed=0), record(seed=1, error="Error: no")]
TREES = [json.loads(json.dumps(run.to_dict())) for run in RUNS]
TIMES = [StepTimes("headlines", "minilm", 8, "dropkey", "lora", (1.0, 2.0), (1.0, 1.0), {})]


def files_like(trees):
    mutants = st.sampled_from(trees).flatmap(mutated).map(lambda tree: json.dumps(tree).encode())
    return st.one_of(
        st.sampled_from([json.dumps(tree).encode() for tree in trees]).flatmap(damaged), mutants
    )


@fuzzed(200)
@given(files_like(TREES))
def test_a_record(tmp_path_factory, content):
    """It is read and tabulated, or it is named and refused."""
    folder = tmp_path_factory.getbasetemp() / "records"
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        run.save(folder)
    path = folder / FOLDER / f"{RUNS[0].id}.json"
    path.write_bytes(content)
    error = refusal(read_records, folder)
    if error is None:
        refusal(tabulate, read_records(folder))
    else:
        assert path.name in str(error)


@fuzzed(100)
@given(files_like([[dataclasses.asdict(each) for each in TIMES]]))
def test_times_of_steps(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "times"
    folder.mkdir(exist_ok=True)
    write_step_times(folder, TIMES)
    (folder / FILE).write_bytes(content)
    if refusal(read_step_times, folder) is None:
        assert all(each.ratio.value > 0 for each in read_step_times(folder))


def test_a_record_that_is_whole_is_read(tmp_path):
    RUNS[0].save(tmp_path)
    assert read_records(tmp_path) == [RUNS[0]]
    with pytest.raises(ConfigError):
        read_records(tmp_path / "none")
    assert isinstance(RUNS[0], Record)
