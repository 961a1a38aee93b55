"""How failures and warnings become rows, and which library is to blame."""

import json
import os
import site

import pytest

from breakage import (
    LONGEST_MESSAGE,
    MOST_ROWS,
    Cause,
    Versions,
    causes,
    read_records,
    shortened,
    table,
)
from breakage_plugin import description, first_line, library_of, short_place

VERSIONS = Versions(
    {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
    {"torch": "2.13.0+cpu", "transformers": "5.24.0", "peft": "0.21.2", "hypothesis": "7"},
)


def failure(test, libraries=(), **what):
    first = libraries[0] if libraries else None
    record = {"error": "TypeError", "message": "no", "place": "a.py:1", "raised_in": first}
    return {"kind": "failure", "test": test, "libraries": list(libraries), **record, **what}


def warning(test, message):
    return failure(test, kind="warning", error="FutureWarning", message=message, place=None)


def test_a_build_of_a_version_is_that_version():
    assert VERSIONS.changed == ["transformers"]
    assert VERSIONS.change("torch") == "2.13.0+cpu"
    assert VERSIONS.change("hypothesis") == "not locked → 7"


@pytest.mark.parametrize(
    ("libraries", "raised_in", "blamed"),
    [
        (["torch", "transformers", "peft"], "torch", "transformers"),
        (["peft", "torch"], "peft", "peft"),
        (["torch"], None, "hiddenkey/tests"),  # a hook of ours that torch called
        ([], None, "hiddenkey/tests"),
    ],
)
def test_the_deepest_library_that_changed_is_to_blame(libraries, raised_in, blamed):
    (cause,) = causes([failure("t", libraries, raised_in=raised_in)], "failure", VERSIONS)
    assert cause.library == blamed


def test_one_line_that_raises_is_one_cause():
    records = [
        failure("a", ["peft"], message="Bert has no cache"),
        failure("b", ["peft"], message="Llama has no cache"),
        failure("b", ["peft"], message="Llama has no cache"),  # teardown too
        failure("c", ["peft"], message="Llama has no cache", place="b.py:7"),
    ]
    first, second = causes(records, "failure", VERSIONS)
    assert first == Cause("peft", "0.21.2", "TypeError: Llama has no cache", 2, "a")
    assert (second.tests, second.example) == (1, "c")


def test_warnings_that_differ_in_numbers_are_one():
    records = [warning("a", "took 3 s"), warning("b", "took 14 s"), warning("c", "took long")]
    assert [cause.tests for cause in causes(records, "warning", VERSIONS)] == [2, 1]
    assert causes(records, "failure", VERSIONS) == []


def test_a_message_is_cut_to_one_line():
    assert shortened("a\n  b") == "a b"
    assert len(shortened("word " * 99)) <= LONGEST_MESSAGE
    assert first_line("\n\n  at last\nmore") == "at last"
    assert first_line("") == ""


def test_a_table_is_short_and_says_what_it_left_out():
    rows = [Cause("peft", "1 → 2", f"a | b {i}", 1, "t") for i in range(MOST_ROWS + 2)]
    lines = table(rows).splitlines()
    assert lines[2] == r"| peft | 1 → 2 | a \| b 0 | 1 | t |"
    assert len(lines) == 2 + MOST_ROWS + 2
    assert lines[-1] == "and 2 more causes"


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    file = tmp_path / "lines"
    assert read_records(file) == []
    file.write_text(json.dumps({"kind": "test"}) + '\n{"kind": "fai')
    assert read_records(file) == [{"kind": "test"}]


def raised(code):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(code, {})
    return description(caught.value, ())


def test_a_library_that_lacks_a_name_is_to_blame_for_an_import():
    found = raised("from transformers import no_such_thing")
    assert found["raised_in"] == "transformers"
    assert found["error"] == "ImportError"


@pytest.mark.parametrize("code", ["peft.no_such_thing", "peft.LoraConfig().no_such_thing"])
def test_a_library_that_lacks_an_attribute_is_to_blame(code):
    assert raised(f"import peft; {code}")["raised_in"] == "peft"


def test_a_module_that_nothing_brings_is_no_library():
    assert raised("import no_such_module_at_all")["raised_in"] is None


def test_the_cause_of_an_error_is_on_the_way():
    code = """
import yaml
try:
    yaml.safe_load("[")
except yaml.YAMLError as error:
    raise ValueError("unreadable") from error
"""
    found = raised(code)
    assert (found["error"], found["message"]) == ("ValueError", "unreadable")
    assert found["raised_in"] is None
    assert found["libraries"] == ["pyyaml"]


def test_a_frame_belongs_to_the_package_that_brings_it():
    packages = site.getsitepackages()[0]
    frame = os.path.join(packages, "yaml", "reader.py")
    assert library_of(frame) == "pyyaml"
    assert short_place(frame, 3) == "yaml/reader.py:3"
    assert library_of(os.path.join(packages, "hiddenkey", "a.py")) is None
    assert library_of(__file__) is None
    assert short_place(__file__, 3) == "tests/maintenance/test_breakage.py:3"
