import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.predictions.labels import glue_tasks, read_labels
from hiddenkey.lab.tasks import TASKS

RTE = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"


def write(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_tasks_are_those_in_glues_layout():
    assert {"cola", "rte", "sst2", "stsb"} <= set(glue_tasks())
    assert not {"headlines", "file", "e2e", "webnlg"} & set(glue_tasks())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.txt", "entailment\n entailment \r\n\n"),
        ("b.txt", "0\n0"),
        ("b.csv", "index,prediction\n0,entailment\n1,0\n"),
        ("b.tsv", "index\tprediction\n0\tentailment\n1\tentailment\n"),
        ("b.jsonl", '{"label": 0}\n{"label": "entailment"}\n'),
    ],
)
def test_predictions_in_every_form(tmp_path, name, content):
    references, outputs = write(tmp_path, "dev.tsv", RTE), write(tmp_path, name, content)
    labels = read_labels(TASKS["rte"], references, outputs)
    assert labels.true == [0, 1]
    assert labels.predicted == [0, 0]


def test_scores_may_lie_outside_the_range_of_the_references(tmp_path):
    references = write(tmp_path, "dev.tsv", "sentence1\tsentence2\tscore\na\tb\t5\nc\td\t1.5\n")
    labels = read_labels(TASKS["stsb"], references, write(tmp_path, "b.txt", "5.2\n-0.1\n"))
    assert labels.true == [5.0, 1.5]
    assert labels.predicted == [5.2, -0.1]


@pytest.mark.parametrize("task", ["rte", "cola", "sst2", "stsb"])
def test_official_files_agree_with_themselves(glue, tmp_path, task):
    references = glue / task / "dev.tsv"
    rows = references.read_text(encoding="utf-8").split("\n")
    column, first = {"rte": (3, 1), "cola": (1, 0), "sst2": (1, 1), "stsb": (9, 1)}[task]
    own = [row.split("\t")[column] for row in rows[first:] if row]
    labels = read_labels(TASKS[task], references, write(tmp_path, "b.txt", "\n".join(own)))
    assert labels.predicted == labels.true


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.txt", "entailment\n", "b.txt: must hold one output for each of the 2 instances of"),
        ("b.txt", "maybe\nentailment\n", "b.txt, line 1: label must be one of entailment, not_ent"),
        ("b.txt", "entailment\n\nentailment\n", "b.txt, line 2: label must be one of"),
        ("b.csv", "index,guess,answer\n0,entailment,x\n", "b.csv: must show which column"),
        ("b.txt", "", "b.txt: must hold text, got an empty file"),
    ],
)
def test_broken_predictions_are_refused_with_file_and_line(tmp_path, name, content, message):
    references, outputs = write(tmp_path, "dev.tsv", RTE), write(tmp_path, name, content)
    with pytest.raises(ConfigError) as caught:
        read_labels(TASKS["rte"], references, outputs)
    assert f"{tmp_path}/{message}" in caught.value.faults[0]


def test_other_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task must be one of cola, .* got 'headlines'"):
        read_labels(TASKS["headlines"], tmp_path / "a", tmp_path / "b")
