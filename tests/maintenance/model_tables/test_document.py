import shlex

import pytest

from hiddenkey.cli.arguments import parse
from hiddenkey.errors import ConfigError
from model_tables.document import command_line, replace_section
from model_tables.options import ArchitecturesOptions


def test_a_new_document_and_a_second_section(tmp_path):
    path = tmp_path / "docs" / "MODELS.md"
    replace_section(path, "one", "first")
    replace_section(path, "two", "second\n")
    text = path.read_text()
    assert text.startswith("# ")
    assert text.endswith(
        "<!-- one -->\nfirst\n<!-- /one -->\n\n<!-- two -->\nsecond\n<!-- /two -->\n"
    )


def test_only_the_section_changes(tmp_path):
    path = tmp_path / "MODELS.md"
    path.write_text("before\n<!-- one -->\nold\n\nold\n<!-- /one -->\nafter\n")
    replace_section(path, "one", r"new \1 \g<0>")
    assert path.read_text() == "before\n<!-- one -->\nnew \\1 \\g<0>\n<!-- /one -->\nafter\n"
    replace_section(path, "one", "newer")
    assert path.read_text() == "before\n<!-- one -->\nnewer\n<!-- /one -->\nafter\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["MODELS.md"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- one -->", "must be there once each"),
        ("<!-- one --><!-- /one --><!-- one --><!-- /one -->", "must be there once each"),
        ("<!-- /one --><!-- one -->", "must come after"),
    ],
)
def test_broken_marks_are_refused_and_nothing_is_written(tmp_path, text, message):
    path = tmp_path / "MODELS.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        replace_section(path, "one", "new")
    assert path.read_text() == text


def test_a_folder_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="must be a file that can be written"):
        replace_section(tmp_path, "one", "new")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ArchitecturesOptions(), ""),
        (ArchitecturesOptions(types=("bert", "t5"), limit=3, json=True), "--types bert t5"),
        (ArchitecturesOptions(output="my folder"), "--output 'my folder'"),
    ],
)
def test_a_command_line_gives_the_settings_that_it_was_written_from(given, words):
    line = command_line("architectures", given)
    assert words in line
    start = ["python", "maintenance/model_tables", "architectures"]
    assert shlex.split(line)[:3] == start
    assert parse(type(given), "architectures", shlex.split(line)[3:]) == given
