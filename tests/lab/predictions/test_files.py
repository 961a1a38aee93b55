import csv
import io
import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.predictions.files import read_material
from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.generation import E2E_COLUMNS, merge_references
from hiddenkey.lab.tasks.tables import read_examples

REFERENCES = [("One, two.", "Two."), ("Three?",), ("Four", "four", "4")]
OUTPUTS = ["1", "", "3"]
SOURCES = ["name[A, b]", "name[B]", "name[C]"]


def table(rows, delimiter=","):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(rows)
    return file.getvalue()


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


PAIRS = [
    (source, text) for source, texts in zip(SOURCES, REFERENCES, strict=True) for text in texts
]
REFERENCE_FILES = {
    "a.txt": "\n\n".join("\n".join(texts) for texts in REFERENCES) + "\n",
    "crlf.txt": "\r\n\r\n".join("\r\n".join(texts) for texts in REFERENCES),
    "bom": "\ufeff" + "\n \n".join(" \n ".join(texts) for texts in REFERENCES) + " \n\n\n",
    "a.csv": table([("mr", "ref"), *PAIRS]),
    "plain.tsv": "".join(f"{a}\t{b}\n" for a, b in [("MR", "REF"), *PAIRS]),
    "a.jsonl": lines({"mr": source, "ref": text} for source, text in PAIRS),
    "list.jsonl": lines(
        {"prompt": source, "references": texts}
        for source, texts in zip(SOURCES, REFERENCES, strict=True)
    ),
    "completion.JSONL": lines({"prompt": a, "completion": b} for a, b in PAIRS),
}
OUTPUT_FILES = {
    "b.txt": "1\n\n3\n",
    "end.txt": "1\r\n\r\n 3 \r\n\r\n",
    "b.csv": table([("mr", "ref"), *zip(SOURCES, OUTPUTS, strict=True)]),
    "own.csv": table([("MR", "system A"), *zip(SOURCES, OUTPUTS, strict=True)]),
    "b.tsv": "output\tseed\n1\t0\n\t0\n3\t0\n",
    "b.jsonl": lines(
        {"output": text, "references": list(texts)}
        for text, texts in zip(OUTPUTS, REFERENCES, strict=True)
    ),
}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", REFERENCE_FILES)
def test_references_in_every_form(tmp_path, name):
    references = write(tmp_path, name, REFERENCE_FILES[name])
    outputs = write(tmp_path, "b.txt", OUTPUT_FILES["b.txt"])
    material = read_material("e2e", references, outputs)
    assert material.references == REFERENCES
    assert material.groups() == {"all": [0, 1, 2]}


def test_a_number_is_a_text(tmp_path):
    references = write(tmp_path, "a.jsonl", lines([{"ref": "7"}, {"ref": 1.5}]))
    outputs = write(tmp_path, "b.jsonl", lines([{"output": 7}, {"output": "x"}]))
    material = read_material("completion", references, outputs)
    assert (material.references, material.outputs) == ([("7",), ("1.5",)], ("7", "x"))


@pytest.mark.parametrize("name", OUTPUT_FILES)
def test_outputs_in_every_form(tmp_path, name):
    references = write(tmp_path, "a.csv", REFERENCE_FILES["a.csv"])
    outputs = write(tmp_path, name, OUTPUT_FILES[name])
    assert read_material("e2e", references, outputs).outputs == tuple(OUTPUTS)


def test_lines_without_an_empty_line_are_single_references(tmp_path):
    references = write(tmp_path, "a.txt", "a\nb\nc\n")
    three = write(tmp_path, "three.txt", "x\ny\nz\n")
    one = write(tmp_path, "one.txt", "x\n")
    assert read_material("e2e", references, three).references == [("a",), ("b",), ("c",)]
    assert read_material("e2e", references, one).references == [("a", "b", "c")]


def test_empty_outputs_at_the_end_are_cut_only_where_no_reading_has_them(tmp_path):
    references = write(tmp_path, "a.txt", "a\nb\nc\n")
    three = write(tmp_path, "three.txt", "x\n\n\n")
    two = write(tmp_path, "two.txt", "x\n\n")
    material = read_material("e2e", references, three)
    assert material.references == [("a",), ("b",), ("c",)]
    assert material.outputs == ("x", "", "")
    material = read_material("e2e", references, two)
    assert (material.references, material.outputs) == ([("a", "b", "c")], ("x",))


def test_separators_inside_a_line_are_text(tmp_path):
    references = write(tmp_path, "a.txt", "a\u2028b\x0cc\n\nd\x85\n")
    outputs = write(tmp_path, "b.txt", "x\u2028y\nz\n")
    material = read_material("e2e", references, outputs)
    assert material.references == [("a\u2028b\x0cc",), ("d",)]
    assert material.outputs == ("x\u2028y", "z")


def test_rows_of_one_meaning_are_one_instance_wherever_they_stand(tmp_path):
    rows = [("mr", "ref"), ("A", "a"), ("B", "b"), ("A", "c")]
    references = write(tmp_path, "a.csv", table(rows))
    three, two = (write(tmp_path, f"{n}.txt", "x\n" * n) for n in (3, 2))
    assert read_material("e2e", references, three).references == [("a",), ("b",), ("c",)]
    assert read_material("e2e", references, two).references == [("a", "c"), ("b",)]


def test_marks_around_a_tables_fields_are_dropped_as_by_the_e2e_scorer(tmp_path):
    text = "'The Vaults' is 'it'"
    comma = write(tmp_path, "a.csv", table([("mr", "ref"), ("A", text)]))
    tab = write(tmp_path, "a.tsv", f'mr\tref\n"A"\t"{text}"\n')
    outputs = write(tmp_path, "b.jsonl", lines([{"output": text}]))
    assert read_material("e2e", comma, outputs).references == [(text[1:],)]
    assert read_material("e2e", tab, outputs).references == [(text,)]
    assert read_material("e2e", comma, outputs).outputs == (text,)
    assert read_material("webnlg", comma, outputs).references == [(text,)]


def test_official_test_set_is_read_as_its_meanings(glue, tmp_path):
    path = glue / "e2e" / "testset_w_refs.csv"
    outputs = write(tmp_path, "b.txt", "x\n" * 630)
    material = read_material("e2e", path, outputs)
    expected = merge_references(read_examples(path, E2E_COLUMNS, FileFaults(path)))
    assert [instance.sources for instance in material.instances] == [i.texts for i in expected]
    assert sum(map(len, material.references)) == 4693


XML = """<benchmark><entries>
<entry category="Airport" eid="Id2" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>
</modifiedtripleset><lex comment="good" lid="Id1">second</lex>
<lex comment="toFix" lid="Id2">bad</lex></entry>
<entry category="Athlete" eid="Id1" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>
</modifiedtripleset><lex comment="toFix" lid="Id1">first</lex></entry>
</entries></benchmark>"""


def test_webnlg_tells_seen_from_unseen_and_follows_the_entries_numbers(tmp_path):
    references = write(tmp_path, "a.xml", XML)
    material = read_material("webnlg", references, write(tmp_path, "b.txt", "x\ny\n"))
    assert material.references == [("first",), ("second",)]
    assert material.groups() == {"all": [0, 1], "seen": [1], "unseen": [0]}


def test_category_of_a_table_tells_seen_from_unseen(tmp_path):
    records = [{"category": "Food", "ref": "a"}, {"category": "Artist", "ref": "b"}]
    references = write(tmp_path, "a.jsonl", lines(records))
    material = read_material("webnlg", references, write(tmp_path, "b.txt", "x\ny\n"))
    assert material.groups() == {"all": [0, 1], "seen": [0], "unseen": [1]}


GOOD = "a\n\nb\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: must hold text, got an empty file; check the path"),
        ("a.txt", b"\n \n", "a.txt: must hold text, got an empty file"),
        ("a.txt", b"\xc2\xa0\n", "a.txt: must hold text, got only white space"),
        ("a.txt", b"a\n\n\nb\n", "a.txt, line 3: one empty line separates two instances, got an"),
        ("a.txt", b"\na\n\nb\n", "a.txt, line 1: one empty line separates two instances"),
        ("a.txt", b"a\n\ncaf\xe9\n", "a.txt, line 3: must be UTF-8, got byte 0xe9; save the file"),
        ("a.csv", b"mr,other,more\nA,b,c\n", "a.csv: must show which column holds the ref"),
        ("a.csv", b"mr,ref\nA,b\nA\n", "a.csv, line 3: must have 2 fields, got 1; fix the row"),
        ("a.csv", b"mr,ref\nA,b\nB, \n", "a.csv, line 3: a reference must not be empty; fill it"),
        ("a.jsonl", b'{"ref": "a"}\n{"ref": {}}\n', "a.jsonl, line 2: column 'ref' must hold text"),
        ("a.jsonl", b'{"ref": "a"}\n{"rf": "b"}\n', "a.jsonl, line 2: column 'ref' must hold text"),
        ("a.jsonl", b'{"references": []}\n', "a.jsonl, line 1: column 'references' must hold"),
        ("a.jsonl", b'{"ref"\n', "a.jsonl, line 1: must be one JSON object"),
        ("a.xml", b"<a><b></a>", "a.xml, line 1: must be well-formed XML (mismatched tag); "),
    ],
)  # fmt: skip
def test_broken_references_are_refused_with_file_and_line(tmp_path, name, content, message):
    references = write(tmp_path, name, content)
    with pytest.raises(ConfigError) as caught:
        read_material("e2e", references, write(tmp_path, "b.txt", "x\ny\n"))
    assert f"{tmp_path}/{message}" in caught.value.faults[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.txt", b"x\n", "must hold one output for each of the 2 instances of"),
        ("b.txt", b"x\ny\nz\n", "got 3; give as many outputs, in the same order"),
        ("b.txt", b"\xff\n", "b.txt, line 1: must be UTF-8, got byte 0xff"),
        ("b.jsonl", b'{"output": ["a", "b"]}\n', "b.jsonl, line 1: must hold one output, got 2"),
        ("b.jsonl", b'{"x": "a", "y": "b"}\n', "b.jsonl: must show which column holds the pre"),
        ("b.jsonl", b'{"output": null}\n', "b.jsonl, line 1: column 'output' must hold text"),
    ],
)  # fmt: skip
def test_broken_outputs_are_refused_with_file_and_line(tmp_path, name, content, message):
    references = write(tmp_path, "a.txt", GOOD)
    with pytest.raises(ConfigError) as caught:
        read_material("e2e", references, write(tmp_path, name, content))
    assert message in caught.value.faults[0]
    assert str(tmp_path / name) in caught.value.faults[0]


def test_outputs_in_another_order_are_refused(tmp_path):
    references = write(tmp_path, "a.csv", table([("mr", "ref"), ("A", "a"), ("B", "b")]))
    outputs = write(tmp_path, "b.csv", table([("mr", "output"), ("A ", "x"), ("C", "y")]))
    with pytest.raises(ConfigError) as caught:
        read_material("e2e", references, outputs)
    assert caught.value.faults == (
        f"{outputs}, line 3: must answer the references' instances in their order, expected 'B',"
        " got 'C'; sort the outputs",
    )


def test_faults_of_both_files_come_together(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_material("e2e", tmp_path / "a.txt", tmp_path / "b.csv")
    assert caught.value.faults == (
        f"{tmp_path / 'a.txt'}: does not exist; check the path",
        f"{tmp_path / 'b.csv'}: does not exist; check the path",
    )
