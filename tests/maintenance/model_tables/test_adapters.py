"""The command that examines every adapter, and the table that it writes."""

import dataclasses
from pathlib import Path

import pytest

from model_tables.adapters.checks import AdapterRow
from model_tables.adapters.sweep import run_adapters, section
from model_tables.main import main

ALONE = ("--jobs", "1")
BEFORE = "# Models\n\nWords.\n\n<!-- adapters -->\nold\n<!-- /adapters -->\n\nMore words.\n"


def cells(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_the_section_of_the_document_is_replaced(tmp_path: Path, capsys):
    (tmp_path / "MODELS.md").write_text(BEFORE)
    assert main(["adapters", "--types", "[OSF,CPT]", *ALONE, "--output", str(tmp_path)]) == 0
    assert "OSF on bert: pass" in capsys.readouterr().out
    text = (tmp_path / "MODELS.md").read_text()
    assert text.startswith("# Models\n\nWords.\n")
    assert text.endswith("\n\nMore words.\n")
    assert "old" not in text
    assert "maintenance/model_tables adapters --types OSF CPT --jobs 1" in text
    rows = {(line[0], line[2]): line for line in cells(text) if line[2:3] in (["llama"], ["bert"])}
    assert rows["OSF", "llama"][3:] == ["4 of 4", "exact", "24", "same", "same", "pass", ""]
    assert rows["CPT", "llama"][-2] == "noise only"
    assert rows["CPT", "bert"][-2] == "PEFT cannot"


def test_an_unknown_type_is_refused(capsys):
    assert main(["adapters", "--types", "[LORAX]"]) == 2
    assert "did you mean 'LORA'?" in capsys.readouterr().err


@pytest.mark.parametrize("verdict", ["pass", "fails"])
def test_the_exit_status_tells_a_failure(verdict, monkeypatch):
    monkeypatch.setattr(
        "model_tables.adapters.sweep.examine_adapter",
        lambda method, base: AdapterRow(method.peft_type, method.variant, base, verdict=verdict),
    )
    assert main(["adapters", "--types", "[OSF]", *ALONE]) == (verdict == "fails")


def test_counts_and_cells_of_the_table():
    row = AdapterRow("LORA", "DoRA", "llama", sites="4 of 4", reason="a | b")
    failed = dataclasses.replace(row, verdict="fails")
    text = section([row, row, failed], "command")
    assert "in 3 settings" in text
    assert ["pass", "2", "every check held"] in cells(text)
    assert ["fails", "1", "it attached, and a check did not hold"] in cells(text)
    assert "a \\| b" in text


def test_worker_processes_give_the_same_rows_in_the_same_order():
    alone = run_adapters(["ROAD", "CPT"], jobs=1)
    seen = []
    assert run_adapters(["ROAD", "CPT"], seen.append, jobs=2) == alone
    assert sorted(seen, key=str) == sorted(alone, key=str)


def test_there_must_be_a_worker(capsys):
    assert main(["adapters", "--jobs", "0"]) == 2
    assert "jobs must be at least 1, got 0" in capsys.readouterr().err
