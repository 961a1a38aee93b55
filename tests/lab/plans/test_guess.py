"""Which columns of a file are taken for the text and the label."""

import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.plans.guess import guess


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count, **columns):
    return [{name: make(index) for name, make in columns.items()} for index in range(count)]


def long(index):
    return f"some words and the number {index}"


@pytest.mark.parametrize(
    ("columns", "texts", "label"),
    [
        ({"text": long, "label": lambda i: "ab"[i % 2]}, ["text"], "label"),
        ({"id": str, "Topic": lambda i: "abc"[i % 3], "body": long}, ["body"], "Topic"),
        ({"text": lambda i: f"w {i}", "notes": long, "y": lambda i: i % 2}, ["text"], "y"),
        ({"id": int, "what": lambda i: "ab"[i % 2], "said": long}, ["said"], "what"),
        (
            {"sentence1": long, "sentence2": lambda i: f"w {i}", "gold": lambda i: i % 2},
            ["sentence1", "sentence2"],
            "gold",
        ),
    ],
)
def test_columns_are_known_by_name_or_by_what_they_hold(tmp_path, columns, texts, label):
    found = guess(write(tmp_path / "a.jsonl", rows(24, **columns)), {})
    assert found.task == "file"
    assert found.settings == {"text_columns": texts, "label_column": label}
    assert found.reasons["label_column"].endswith(("12, b 12", "8, b 8, c 8", "0 12, 1 12"))


def test_several_columns_that_may_be_the_label_are_not_chosen_from(tmp_path):
    columns = {"text": long, "toxic": lambda i: i % 2, "threat": lambda i: i % 2, "id": int}
    path = write(tmp_path / "a.jsonl", rows(24, **columns))
    with pytest.raises(ConfigError, match="got 'toxic', 'threat' with 2 different values each"):
        guess(path, {})
    assert guess(path, {"label_column": "toxic"}).settings["label_column"] == "toxic"
    fewer = {**columns, "threat": lambda i: i % 3}
    found = guess(write(tmp_path / "b.jsonl", rows(24, **fewer)), {})
    assert found.settings["label_column"] == "toxic"


def test_a_column_that_names_parts_is_no_label(tmp_path):
    columns = {
        "text": long,
        "outcome": lambda i: "abc"[i % 3],
        "split": lambda i: "Test" if i % 4 == 0 else "train",
    }
    path = write(tmp_path / "a.jsonl", rows(24, **columns))
    found = guess(path, {})
    assert found.settings == {"text_columns": ["text"], "label_column": "outcome"}
    assert found.unused == (
        "column 'split' names parts (train 18, Test 6) and is not used; split the file by it and"
        " give the part to evaluate on as eval_file"
    )
    named = guess(path, {"label_column": "split"})
    assert (named.settings["label_column"], named.unused) == ("split", "")
    chat = rows(24, prompt=long, completion=long, split=columns["split"])
    assert guess(write(tmp_path / "b.jsonl", chat), {}).unused == found.unused
    plain = rows(24, text=long, outcome=columns["outcome"], label=lambda i: ["test", "x"][i % 2])
    found = guess(write(tmp_path / "c.jsonl", plain), {})
    assert (found.settings["label_column"], found.unused) == ("label", "")


def test_numbers_with_decimals_are_scores(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(40, text=long, score=lambda i: i / 8))
    found = guess(path, {})
    assert found.settings["regression"] is True
    assert "numbers from 0 to 4.875" in found.reasons["label_column"]
    stars = write(tmp_path / "b.jsonl", rows(40, text=long, score=lambda i: i % 5))
    assert "regression" not in guess(stars, {}).settings


def test_many_whole_numbers_may_be_scores(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(40, text=long, label=lambda i: i % 20))
    assert (
        guess(path, {})
        .reasons["label_column"]
        .endswith("if these are scores, add regression: true")
    )
    few = write(tmp_path / "b.jsonl", rows(40, text=long, label=lambda i: i % 10))
    assert "regression" not in guess(few, {}).reasons["label_column"]


def test_a_file_without_a_line_of_names_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    lines = [f"{long(index)},{'yes' if index % 2 else 'no'}\n" for index in range(12)]
    path.write_text("".join(lines))
    with pytest.raises(ConfigError, match=r"must begin with the names .* of the label 'no'; write"):
        guess(path, {})
    path.write_text(
        "message,spam\n" + "".join(f"{long(i)},{'spam' if i % 2 else 'ham'}\n" for i in range(12))
    )
    assert guess(path, {}).settings == {"text_columns": ["message"], "label_column": "spam"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": "b"}, "columns 'prompt' and 'completion'"),
        ({"messages": [{"role": "user", "content": "a"}]}, "read as chat messages"),
        ({"instruction": "a", "input": "", "output": "b"}, "read as Alpaca instructions"),
    ],
)
def test_conversations_are_completions(tmp_path, row, reason):
    found = guess(write(tmp_path / "a.jsonl", [row]), {})
    assert found.task == "completion"
    assert found.reasons["train_file"].startswith(reason)


def test_what_the_user_says_is_taken(tmp_path):
    columns = {"text": long, "other": long, "label": lambda i: i % 2, "mine": lambda i: i % 4}
    path = write(tmp_path / "a.jsonl", rows(24, **columns))
    found = guess(path, {"text_columns": ["other"], "label_column": "mine"})
    assert found.settings == {"text_columns": ["other"], "label_column": "mine"}


@pytest.mark.parametrize(
    "columns", [{"text": long}, {"label": lambda i: i % 2}, {"a": int, "b": lambda i: i % 2}]
)
def test_a_file_without_text_or_label_is_refused_with_its_columns(tmp_path, columns):
    path = write(tmp_path / "a.jsonl", rows(12, **columns))
    names = ", ".join(columns)
    with pytest.raises(
        ConfigError, match=f"column of texts and one of two or more labels, got {names}; name"
    ):
        guess(path, {})


def test_a_broken_file_is_told_by_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\nc\n")
    with pytest.raises(ConfigError, match="line 3: must have 2 fields, got 1"):
        guess(path, {})
