import json
import os
import tracemalloc
from datetime import date
from decimal import Decimal

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import Example, Source, find_task
from hiddenkey.lab.tasks.classes import described
from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import read_rows


def load(train, evaluation, **settings):
    source = Source(train_file=train, eval_file=evaluation, **settings)
    return find_task("file", source).load(source)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_quotes_and_line_breaks(tmp_path):
    train = write(tmp_path / "a.csv", 'text,label\n"one, ""two""\nthree",yes\nfour,no\n')
    splits = load(train, train, text_columns=("text",))
    assert splits.label_names == ("no", "yes")
    assert splits.train == (Example(('one, "two"\nthree',), 1), Example(("four",), 0))


def test_tsv_has_no_quoting_and_a_byte_order_mark_is_dropped(tmp_path):
    train = write(tmp_path / "a.tsv", '\ufeffa\tb\ty\n"x\ty"\t1\nz\tw\t0\n')
    splits = load(train, train, text_columns=("a", "b"), label_column="y")
    assert splits.train[0] == Example(('"x', 'y"'), 1)


def test_a_separator_in_the_name_of_the_one_column_is_part_of_it(tmp_path):
    path = write(tmp_path / "a.csv", "one; or two\nx\n")
    assert [row.values for row in read_rows(path, ("one; or two",), FileFaults(path))] == [
        {"one; or two": "x"}
    ]


@pytest.mark.parametrize("end", ["\r", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_lines_end_as_on_any_machine(tmp_path, kind, end):
    between = "," if kind == "csv" else "\t"
    lines = [f"text{between}label", f"one{between}yes", f"two{between}no"]
    if kind == "jsonl":
        lines = [json.dumps({"text": t, "label": y}) for t, y in (("one", "yes"), ("two", "no"))]
    train = tmp_path / f"a.{kind}"
    train.write_bytes("".join(line + end for line in lines).encode())
    splits = load(train, train, text_columns=("text",))
    assert splits.train == (Example(("one",), 1), Example(("two",), 0))


def test_jsonl_pairs_with_number_labels(tmp_path):
    rows = [{"q": "a", "s": "b", "y": 10}, {"q": "c", "s": "d", "y": 9}]
    train = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    splits = load(train, train, text_columns=("q", "s"), label_column="y")
    assert splits.label_names == ("9", "10"), "numbers sort as numbers"
    assert [example.label for example in splits.train] == [1, 0]


def test_given_label_names_fix_the_order_and_the_set(tmp_path):
    train = write(tmp_path / "a.csv", "text,label\na,yes\nb,no\n")
    splits = load(train, train, text_columns=("text",), label_names=("yes", "no"))
    assert [example.label for example in splits.train] == [0, 1]
    with pytest.raises(ConfigError, match=r"line 3: label must be one of yes, maybe, got 'no'"):
        load(train, train, text_columns=("text",), label_names=("yes", "maybe"))


def test_regression_reads_scores(tmp_path):
    train = write(tmp_path / "a.csv", "text,y\na,-1.5\nb,2\n")
    source = Source(
        train_file=train, eval_file=train, text_columns=("text",), label_column="y", regression=True
    )
    task = find_task("file", source)
    assert (task.kind, task.metrics) == ("regression", ("pearson", "spearman"))
    assert [example.label for example in task.load(source).train] == [-1.5, 2.0]
    infinite = write(tmp_path / "b.csv", "text,y\na,inf\n")
    with pytest.raises(ConfigError, match="line 2: score must be a finite number, got 'inf'"):
        load(infinite, train, text_columns=("text",), label_column="y", regression=True)


def test_label_that_training_lacks_is_refused_in_evaluation(tmp_path):
    train = write(tmp_path / "a.csv", "text,label\na,yes\nb,no\n")
    evaluation = write(tmp_path / "b.csv", "text,label\na,perhaps\n")
    with pytest.raises(
        ConfigError, match=r"b\.csv, line 2: label must be one of no, yes, got 'perhaps'"
    ):
        load(train, evaluation, text_columns=("text",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "must hold text, got an empty file; check the path"),
        ("a.csv", b"text,label\n", "must hold at least one example, got none"),
        ("a.csv", b"body,label\nx,1\n", "must have a column 'text', got 'body', 'label'; name one"),
        ("a.csv", b"text,label\nx,0\ny,1\nz\n", "line 4: must have 2 fields, got 1; fix the row"),
        ("a.csv", b'text,label\nx,0\n"y,1\n', r"line 3: must be valid CSV \(.*\); fix the quotes"),
        ("a.csv", b"text,label\nx,0\ncaf\xe9,1\n", "line 3: must be UTF-8, got byte 0xe9; save"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n{"text": \n', "line 2: must be one JSON object"),
        ("a.jsonl", b"[1]\n", r"line 1: must be one JSON object, got '\[1\]'; fix the line"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: must have a column 'label', got 'text'; name one"),
        ("a.jsonl", b'{"text": 3, "label": 0}\n{"text": "", "label": 1}', "must hold text, got 3"),
        ("a.csv", b"text;label\nx, y;0\n", "line 1: must have commas .*, got semicolons; save it"),
        ("a.csv", b"text\tlabel\nx\t0\n", "must have commas .*, got tabs; name the file .tsv"),
        ("a.tsv", b"text,label\nx,0\n", "must have tabs .*, got commas; name the file .csv"),
        ("a.csv", b"sep=;\ntext;label\nx;0\n", "line 1: must name the columns, got .* 'sep=;'"),
        ("a.csv", b"sep=,\ntext,label\nx,0\n", "line 1: must name the columns, got Excel's 'sep='"),
        ("a.txt", b"x", "must be one of .csv, .tsv, .jsonl, .parquet, got"),
        ("a.csv", b"text,label\nx,1\ny,1\n", "must hold 2 to 1000 different labels, got 1; name"),
    ],
)  # fmt: skip
def test_bad_file_is_refused_with_file_line_rule_and_next_step(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, path, text_columns=("text",))
    assert str(path) in str(caught.value)


def labels(path, values, **settings):
    rows = [{"text": f"t{index}", "label": value} for index, value in enumerate(values)]
    write(path, "\n".join(map(json.dumps, rows)))
    return load(path, path, text_columns=("text",), **settings)


@pytest.mark.parametrize(
    "value", ["", " ", "null", "NaN", "None", None, float("nan"), "N/A", "<NA>", "-", "\u200b"]
)
def test_a_missing_label_is_no_class(tmp_path, value):
    with pytest.raises(ConfigError, match=r"line 3: column 'label' must hold a label, got .*miss"):
        labels(tmp_path / "a.jsonl", ["pos", "neg", value])


def test_what_often_means_none_is_a_class_where_it_is_named(tmp_path):
    names = ("against", "none", "favor")
    splits = labels(tmp_path / "a.jsonl", names, label_names=names)
    assert [example.label for example in splits.train] == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [
        ("pos", "Pos"), ("pos", "pos "), ("1", "1.0"), (1, 1.0), (1, "01"), (True, 1),
        ("y", "Y"), ("café", "cafe\u0301"), ("not_a", "not a"), ("a", "a\u200b"), ("a", "a\xa0"),
        ("\uff11", "1"),
    ],
)  # fmt: skip
def test_one_label_in_two_spellings_is_asked_about(tmp_path, values):
    message = (
        r"labels must each be written in one way, got .* \(2 of 4 rows\), .* \(1 of 4 rows\); w"
    )
    with pytest.raises(ConfigError, match=message):
        labels(tmp_path / "a.jsonl", [values[0], "other", *values])


def test_two_spellings_are_kept_apart_where_both_are_named(tmp_path):
    splits = labels(tmp_path / "a.jsonl", ["pos", "Pos"], label_names=("pos", "Pos"))
    assert [example.label for example in splits.train] == [0, 1]
    with pytest.raises(ConfigError, match="must be one of pos, neg, got 'Pos'; write 'pos'"):
        labels(tmp_path / "a.jsonl", ["pos", "Pos"], label_names=("pos", "neg"))


@pytest.mark.parametrize(
    "values", [("A", "A+"), ("A-", "A"), ("-1", "1"), ("not", "not a"), ("c", "c++"), (-1, 0)]
)
def test_labels_that_look_alike_and_are_not(tmp_path, values):
    assert len(labels(tmp_path / "a.jsonl", values).label_names) == 2


@pytest.mark.parametrize(
    "value", [["a", "b"], ["a"], {"a": 1}, "['a', 'b']", '["a"]', "a,b", "b | a"]
)
def test_a_list_of_labels_is_no_class(tmp_path, value):
    with pytest.raises(ConfigError, match=r"one label"):
        labels(tmp_path / "a.jsonl", ["a", "b", value])


@pytest.mark.parametrize(
    "text", ["text,label,label\na,0,1\nb,1,0\n", "text,text,label\na,c,1\nb,d,0\n"]
)
def test_two_columns_of_one_name_are_refused(tmp_path, text):
    for name, content in (("a.csv", text), ("a.tsv", text.replace(",", "\t"))):
        train = write(tmp_path / name, content)
        with pytest.raises(
            ConfigError, match=r"must have one column '\w+', got .*; rename the others"
        ):
            load(train, train, text_columns=("text",))


def test_two_columns_of_one_name_that_nobody_asks_for_are_fine(tmp_path):
    train = write(tmp_path / "a.csv", "text,label,,\na,0,,\nb,1,,\n")
    assert len(load(train, train, text_columns=("text",)).train) == 2


LONG = "9" * 5000
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": "x", "label": "y"}', "a name occurs twice"),
        ('{"text": "\\ud800", "label": "x"}', "must be one JSON object .surrogates not allowed"),
        ('{"text": "a", "label": "\\uDFFF"}', "must be one JSON object .surrogates not allowed"),
        (f'{{"text": "a", "label": {LONG}}}', "must be one JSON object .*digits"),
        (f'{{"text": "a", "label": {DEEP}}}', "must be one JSON object .*recursion"),
        ('{"text": "a\x00", "label": "x"}', "line 2: must be text in UTF-8, got a NUL byte"),
        ('{"text": " ", "label": "x"}', "column 'text' must hold text, got ' '; fill it in"),
    ],
)
def test_a_line_that_python_reads_and_nobody_meant(tmp_path, line, message):
    train = write(tmp_path / "a.jsonl", f'{{"text": "b", "label": "y"}}\n{line}\n')
    with pytest.raises(ConfigError, match=message):
        load(train, train, text_columns=("text",))


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = tmp_path / "a.jsonl"
    assert labels(path, ["\U0001f600", "b"]).label_names == ("b", "\U0001f600")


def test_a_long_field_is_read(tmp_path):
    long = "a, " * 100_000
    train = write(tmp_path / "a.csv", f'text,label\n"{long}",0\nb,1\n')
    assert load(train, train, text_columns=("text",)).train[0].texts == (long,)


def test_ten_million_bad_rows_are_refused_at_once(tmp_path):
    train = write(tmp_path / "a.csv", "text,label\n" + ",x\n" * 10_000_000)
    tracemalloc.start()
    with pytest.raises(ConfigError) as caught:
        load(train, train, text_columns=("text",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert caught.value.faults[5] == f"{train}: 995 more rows break a rule; the rest was not read"


@pytest.mark.parametrize("name", ["folder.csv", "pipe.csv", "nul\x00.csv", "x" * 5000 + ".csv"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match=r"must be a file|cannot be read"):
        load(tmp_path / name, tmp_path / name, text_columns=("text",))


def test_a_score_is_written_as_a_number(tmp_path):
    for value in ("1_000", "", "None", None, [1], float("nan"), True):
        with pytest.raises(ConfigError, match="score must be a finite number"):
            labels(tmp_path / "a.jsonl", [value, 1.0], regression=True)


def test_classes_are_shown_with_their_counts(tmp_path):
    splits = labels(tmp_path / "a.jsonl", ["b", "a", "b"])
    assert described(splits)[0] == "training examples: 3 (a: 1, b: 2)"
    many = labels(tmp_path / "a.jsonl", [*range(20), 3])
    assert described(many)[1] == "evaluation examples: 21 (20 classes of 1 to 2, 0 empty)"
    scores = labels(tmp_path / "a.jsonl", [1, 2.5], regression=True)
    assert described(scores)[0] == "training examples: 2 (scores from 1 to 2.5, mean 1.75)"


def test_both_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.csv", tmp_path / "b.csv", text_columns=("text",))
    assert caught.value.faults == (
        f"{tmp_path / 'a.csv'}: does not exist; check the path",
        f"{tmp_path / 'b.csv'}: does not exist; check the path",
    )


def test_a_relative_path_is_told_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load("a.csv", None, text_columns=("text",))
    assert caught.value.faults == (
        f"a.csv: does not exist in the folder {tmp_path}; check the path",
    )


def test_many_broken_rows_are_counted(tmp_path):
    good = write(tmp_path / "a.csv", "text,label\na,x\nb,y\n")
    bad = write(tmp_path / "b.csv", "text,label\n" + "a\n" * 20)
    with pytest.raises(ConfigError) as caught:
        load(good, bad, text_columns=("text",))
    assert len(caught.value.faults) == 6
    assert caught.value.faults[-1] == f"{bad}: 15 more rows break a rule"


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_is_read_like_the_others(tmp_path):
    rows = [{"text": "a", "label": 0, "more": 1.5}, {"text": "b", "label": 1, "more": 2.5}]
    train = write_parquet(tmp_path / "a.parquet", rows)
    splits = load(train, train, text_columns=("text",))
    assert [(e.texts, e.label) for e in splits.train] == [(("a",), 0), (("b",), 1)]
    assert splits.label_names == ("0", "1")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": 0}, {"text": None, "label": 1}], "row 2: column 'text' must hold"),
        ([{"text": "a"}], "must have a column 'label', got 'text'; name one"),
    ],
)
def test_a_bad_parquet_file_is_refused_with_its_row(tmp_path, rows, message):
    train = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(ConfigError, match=message):
        load(train, train, text_columns=("text",))


def test_what_is_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    train = tmp_path / "a.parquet"
    train.write_text("text,label\n")
    with pytest.raises(ConfigError, match=r"a\.parquet: must be a whole Parquet file"):
        load(train, train, text_columns=("text",))


@pytest.mark.parametrize("value", [date(2026, 1, 2), b"x", ["a"], {"a": 1}])
def test_a_parquet_label_that_json_cannot_hold_is_refused(tmp_path, value):
    train = write_parquet(tmp_path / "a.parquet", [{"text": "a", "label": value}] * 2)
    with pytest.raises(
        ConfigError, match=r"row 1: column 'label' must hold a label, got .* not one"
    ):
        load(train, train, text_columns=("text",))


def test_a_parquet_decimal_is_a_number(tmp_path):
    rows = [{"text": "a", "label": Decimal("1.50")}, {"text": "b", "label": Decimal("2.00")}]
    train = write_parquet(tmp_path / "a.parquet", rows)
    assert load(train, train, text_columns=("text",)).label_names == ("1.50", "2.00")
    splits = load(train, train, text_columns=("text",), regression=True)
    assert [example.label for example in splits.train] == [1.5, 2.0]
