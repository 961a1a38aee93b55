import json
from collections import Counter

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import TASKS, Source


@pytest.mark.parametrize(
    ("task", "rows", "first_class"),
    [
        ("trec", (5442, 500), ("description", 138)),
        ("subj", (8000, 2000), ("objective", 1018)),
        ("mr", (8530, 2132), ("positive", 1047)),
        ("cr", (3012, 753), ("positive", 495)),
        ("irony", (2862, 784), ("ironic", 311)),
        ("emotion", (3257, 1421), ("anger", 558)),
        ("clinc150", (7499, 4500), ("translate", 30)),
    ],
)
def test_real_files_have_the_known_rows_and_classes(glue, task, rows, first_class):
    splits = TASKS[task].load(Source(data=str(glue)))
    assert (len(splits.train), len(splits.evaluation)) == rows
    name, count = first_class
    assert Counter(e.label for e in splits.evaluation)[splits.label_names.index(name)] == count
    assert all(example.texts[0].strip() for example in splits.train + splits.evaluation)
    assert not {e.texts for e in splits.train} & {e.texts for e in splits.evaluation}
    assert {e.label for e in splits.train} == set(range(len(splits.label_names)))


def test_known_texts_have_the_class_that_they_belong_to(glue):
    def first(task: str, text: str) -> str:
        splits = TASKS[task].load(Source(data=str(glue)))
        found = [e for e in splits.train + splits.evaluation if text in e.texts[0]]
        return splits.label_names[found[0].label]

    assert first("trec", "How tall is the Sears Building") == "number"
    assert first("trec", "What does the abbreviation AIDS stand for") == "abbreviation"
    assert first("subj", "thirteen conversations about one thing is a small gem") == "subjective"
    assert first("irony", "makes me really excited for the next 3 weeks of my life") == "ironic"


def test_lines_end_at_newlines_alone(tmp_path):
    """U+0085 ends a line for Python, and is a letter of these files."""
    texts = [f"{i % 2} text {i} \x85 more" for i in range(10)]
    (tmp_path / "subj.all").write_bytes("\n".join(texts).encode("latin-1"))
    splits = TASKS["subj"].load(Source(data=str(tmp_path)))
    assert (len(splits.train), len(splits.evaluation)) == (8, 2)
    assert {e.texts[0] for e in splits.train + splits.evaluation} == {t[2:] for t in texts}


def test_the_split_depends_on_the_texts_alone(tmp_path):
    lines = [f"{i % 2} text {i}" for i in range(50)]
    found = []
    for order in (lines, lines[::-1]):
        (tmp_path / "mr").mkdir(exist_ok=True)
        (tmp_path / "mr" / "rt-polarity.all").write_text("\n".join(order), "latin-1")
        found.append(TASKS["mr"].load(Source(data=str(tmp_path))))
    assert found[0] == found[1]


def test_rows_without_a_text_and_texts_on_both_sides_are_left_out_and_counted(tmp_path):
    for part, texts in (("train", "one\n\ntwo\nthree"), ("test", "two\nfour")):
        (tmp_path / f"tweet_irony_{part}.txt").write_text(texts + "\n")
        labels = "\n".join(str(i % 2) for i in range(len(texts.split("\n"))))
        (tmp_path / f"tweet_irony_{part}.lab").write_text(labels + "\n")
    splits = TASKS["irony"].load(Source(data=str(tmp_path)))
    assert [e.texts[0] for e in splits.train] == ["one", "three"]
    assert splits.notes == (
        "left out 1 training texts that are evaluated on",
        "left out 1 rows without a text",
    )


def test_faults_name_the_line(tmp_path):
    (tmp_path / "custrev.all").write_text("1 good\n7 what\nbad")
    with pytest.raises(ConfigError, match=r"custrev.all, line 2: must begin with a class from 0"):
        TASKS["cr"].load(Source(data=str(tmp_path)))
    with pytest.raises(ConfigError, match="must be a folder that holds TREC"):
        TASKS["trec"].load(Source(data=str(tmp_path)))


def test_files_of_different_lengths_are_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"tweet_emotion_{part}.txt").write_text("one\ntwo\n")
        (tmp_path / f"tweet_emotion_{part}.lab").write_text("0\n")
    with pytest.raises(ConfigError, match="must have a line for each of the 2 texts"):
        TASKS["emotion"].load(Source(data=str(tmp_path)))


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"train": [["a"]], "test": []})])
def test_a_damaged_file_of_intents_is_refused(content, tmp_path):
    (tmp_path / "clinc_small.json").write_text(content)
    with pytest.raises(ConfigError, match="must be JSON with lists 'train' and 'test'"):
        TASKS["clinc150"].load(Source(data=str(tmp_path)))
