import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import Example
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.generation import E2E_COLUMNS, merge_references
from hiddenkey.lab.tasks.tables import read_examples


def read(path):
    faults = FileFaults(path)
    found = read_examples(path, E2E_COLUMNS, faults)
    refuse(faults)
    return found


@pytest.mark.parametrize(
    ("name", "rows", "meanings"),
    [("trainset", 42061, 4862), ("devset", 4672, 547), ("testset_w_refs", 4693, 630)],
)
def test_real_files_have_the_known_rows_and_meanings(glue, name, rows, meanings):
    pairs = read(glue / "e2e" / f"{name}.csv")
    instances = merge_references(pairs)
    assert (len(pairs), len(instances)) == (rows, meanings)
    assert sum(len(instance.references) for instance in instances) == rows
    assert all(pair.texts[0].startswith("name[") for pair in pairs)


def test_line_breaks_inside_a_real_text_are_kept(glue):
    pairs = read(glue / "e2e" / "trainset.csv")
    assert sum("\n" in pair.label for pair in pairs) == 2


def write(path, content):
    path.write_bytes(content)
    return path


def test_rows_are_grouped_by_meaning_in_the_order_of_the_first(tmp_path):
    path = write(tmp_path / "a.csv", b'mr,ref\n"a, b","x ""y"""\nc,z\n"a, b",w\n')
    pairs = read(path)
    assert [(*pair.texts, pair.label) for pair in pairs] == [
        ("a, b", 'x "y"'), ("c", "z"), ("a, b", "w"),
    ]  # fmt: skip
    assert merge_references(pairs) == (
        Example(("a, b",), 'x "y"', ('x "y"', "w")),
        Example(("c",), "z", ("z",)),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv: must hold text, got an empty file"),
        (b"mr,ref\n", "a.csv: must hold at least one example, got none"),
        (b"mr,text\na,b\n", "a.csv: must have a column 'ref', got 'mr', 'text'; name one"),
        (b"mr,ref\na,b\nc\n", "a.csv, line 3: must have 2 fields, got 1; fix the row"),
        (b"mr,ref\na,b,c\n", "a.csv, line 2: must have 2 fields, got 3; fix the row"),
        (b"mr,ref\na,b\nc, \n", "a.csv, line 3: column 'ref' must hold text, got ' '; "),
        (b"mr,ref\n,b\n", "a.csv, line 2: column 'mr' must hold text, got ''; "),
        (b"mr,ref\na,\xa320\n", "a.csv, line 2: must be UTF-8, got byte 0xa3; save the file"),
        (b'mr,ref\n"a,b\n', "a.csv, line 2: must be valid CSV"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.faults[0].startswith(f"{tmp_path}/{message}")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.csv: does not exist; check the path"):
        read(tmp_path / "a.csv")
