"""The table of versions says what was found, and covers the range that attach accepts."""

import json
from pathlib import Path

import compatibility
from hiddenkey.attachment import versions

RECORD = Path(__file__).parents[2] / "docs" / "compatibility.json"
FOUND = dict(zip(compatibility.LIBRARIES, ("2.6.0", "5.0.0", "0.18.1", "1.12.0"), strict=True))


def page(*results):
    return compatibility.document(results, "2026-01-02")


def row(text, start="| 2.6.0 "):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_row_says_what_passed_and_what_did_not():
    failures = {"import": {}, "padding": {"bert": "AssertionError: padding was dropped"}}
    text = page({"versions": FOUND, "failures": failures})
    assert row(text) == "| 2.6.0 | 5.0.0 | 0.18.1 | 1.12.0 | yes | not bert (1) |"
    assert "\n1. bert: AssertionError: padding was dropped\n" in text
    assert "on 2026-01-02" in text


def test_an_environment_that_did_not_run_is_a_row():
    passed = {"versions": FOUND | {"torch": "2.13.0"}, "failures": {"import": {}, "padding": {}}}
    text = page({"versions": FOUND, "error": "TimeoutExpired: pip"}, passed)
    assert row(text) == "| 2.6.0 | 5.0.0 | 0.18.1 | 1.12.0 | not run (1) |  |"
    assert "\n1. TimeoutExpired: pip\n" in text


def test_a_missing_interpreter_becomes_an_error(tmp_path, monkeypatch):
    def fail(folder, versions):
        raise OSError("no space left")

    monkeypatch.setattr(compatibility, "_make", fail)
    found = compatibility.check(tuple(FOUND.values()), tmp_path)
    assert found == {"versions": FOUND, "error": "OSError: no space left"}


def test_the_rows_reach_from_the_oldest_version_to_the_newest():
    rows = json.loads(RECORD.read_text())["rows"]
    assert all("error" not in found for found in rows)
    for library, tried in versions.TRIED.items():
        numbers = [versions._number(found["versions"][library]) for found in rows]
        assert min(numbers) == versions._number(tried.oldest)
        assert max(numbers) == versions._number(tried.newest)


def test_the_page_is_the_record():
    record = json.loads(RECORD.read_text())
    written = RECORD.with_name("COMPATIBILITY.md").read_text()
    table = [line for line in written.splitlines() if line.startswith("| 2.")]
    made = compatibility.document(record["rows"], record["day"]).splitlines()
    assert table == [line for line in made if line.startswith("| 2.")]
