"""What the scripts of other people are judged by, without running them."""

from pathlib import Path

import pytest

from other_scripts import Case, answering, classification, is_active, row, table

CASE = Case("a script", ["python"], 2, Path())
RECORD = {
    "processes": 2, "trainer": "Trainer", "steps": 6, "sites": {"hidden/0": 0.09, "hidden/1": 0.12},
    "task_loss": 0.5, "consistency_loss": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "active"),
    [
        ({}, True),
        ({"processes": 1}, False),
        ({"sites": {"hidden/0": 0.1, "hidden/1": None}}, False),
        ({"sites": {"hidden/0": 0.1, "hidden/1": 0.0}}, False),
        ({"sites": {}}, False),
        ({"consistency_loss": None}, False),
        ({"consistency_loss": 0.0}, False),
    ],
    ids=["as it is", "processes", "not reached", "not dropped", "no sites", "no loss", "zero loss"],
)
def test_noise_counts_as_active_where_every_site_dropped_and_the_loss_was_there(change, active):
    assert is_active({**RECORD, **change}, CASE) is active
    assert row(CASE, {**RECORD, **change})[-1] == ("yes" if active else "no")


def test_the_table_has_a_line_for_a_script_that_failed():
    lines = table([row(CASE, RECORD), row(CASE, None)]).splitlines()
    assert lines[2] == "| a script | 2 | Trainer | 6 | 2 | 0.090 to 0.120 | 0.500 + 0.01000 | yes |"
    assert lines[3].endswith("| no: it failed |")
    assert {line.count("|") for line in lines} == {9}


def test_the_data_are_such_that_the_scripts_can_read(tmp_path):
    from transformers import T5Tokenizer

    flags = classification(tmp_path)
    assert (tmp_path / "train.csv").read_text().splitlines()[0] == "sentence,label"
    assert Path(flags[1]).is_dir()
    answering(tmp_path)
    tokens = T5Tokenizer.from_pretrained(tmp_path / "t5")("Context: w3 w4 </s>")["input_ids"]
    assert 2 not in tokens  # no word is unknown
