"""A file to predict for is read by the columns and the labels of the training's task."""

import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.texts import read_texts


def read(path, task, content, *, kind="classification", names=("a", "b"), texts=1, **given):
    path.write_text(content)
    origin = Origin("0.1.0", kind, "minilm", tuple(names), texts, {"task": task})
    return read_texts(path, origin, origin.options("minilm"), **given)


def test_pairs_of_a_glue_task(tmp_path):
    content = "sentence1,sentence2,label\nx,y,not_entailment\nz,w,entailment\n"
    names = ("entailment", "not_entailment")
    found = read(tmp_path / "a.csv", "rte", content, names=names, texts=2)
    assert found.columns == ("sentence1", "sentence2")
    assert [example.texts for example in found.examples] == [("x", "y"), ("z", "w")]
    assert [example.label for example in found.examples] == [1, 0]


@pytest.mark.parametrize("labels", [("0", "1"), ("negative", "positive")])
def test_labels_by_number_or_by_name(labels, tmp_path):
    content = f"sentence\tlabel\nbad\t{labels[0]}\ngood\t{labels[1]}\n"
    found = read(tmp_path / "a.tsv", "sst2", content, names=("negative", "positive"))
    assert ([example.label for example in found.examples], found.labelled) == ([0, 1], True)


def test_scores(tmp_path):
    lines = [{"sentence1": "a", "sentence2": "b", "score": 4.5}]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    found = read(tmp_path / "a.jsonl", "stsb", content, kind="regression", names=(), texts=2)
    assert found.examples[0].label == 4.5
    wrong = content.replace("4.5", "7")
    with pytest.raises(ConfigError, match=r"score must be a number from 0 to 5, got 7"):
        read(tmp_path / "a.jsonl", "stsb", wrong, kind="regression", names=(), texts=2)


def test_an_empty_label_column_means_no_labels(tmp_path):
    found = read(tmp_path / "a.csv", "headlines", "text,label\nx,\ny,\n")
    assert not found.labelled
    assert [example.texts for example in found.examples] == [("x",), ("y",)]


def test_a_half_empty_label_column_is_a_fault(tmp_path):
    with pytest.raises(ConfigError, match="line 3: label must be one of a, b, got ''"):
        read(tmp_path / "a.csv", "headlines", "text,label\nx,a\ny,\n")


def test_columns_that_are_named_win(tmp_path):
    given = {"text_columns": ("review",), "label_column": "gold"}
    found = read(tmp_path / "a.csv", "file", "id,review,gold\n1,x,b\n", **given)
    assert (found.columns, found.examples[0].label) == (("review",), 1)


def test_settings_that_a_run_did_not_have_are_the_defaults():
    origin = Origin("0.1.0", "classification", "minilm", ("a", "b"), 1, {"rank": 4, "gone": 1})
    assert origin.options("minilm") == TrainOptions(rank=4)
