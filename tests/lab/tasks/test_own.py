import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import Example, Source, find_task


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


def test_both_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.csv", tmp_path / "b.csv", text_columns=("text",))
    assert caught.value.faults == (
        f"{tmp_path / 'a.csv'}: does not exist; check the path",
        f"{tmp_path / 'b.csv'}: does not exist; check the path",
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
    with pytest.raises(ConfigError, match=r"a\.parquet: must be a Parquet file"):
        load(train, train, text_columns=("text",))
