from collections import Counter

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import TASKS, Source


@pytest.mark.parametrize(
    ("task", "rows", "first_class"),
    [
        ("rte", (2490, 277), ("entailment", 1249, 146)),
        ("cola", (8551, 1043), ("acceptable", 6023, 721)),
        ("sst2", (67349, 872), ("positive", 37569, 444)),
    ],
)
def test_real_files_have_the_known_rows_and_classes(glue, task, rows, first_class):
    splits = TASKS[task].load(Source(data=str(glue)))
    assert (len(splits.train), len(splits.evaluation)) == rows
    name, in_train, in_evaluation = first_class
    label = splits.label_names.index(name)
    assert Counter(example.label for example in splits.train)[label] == in_train
    assert Counter(example.label for example in splits.evaluation)[label] == in_evaluation


def test_real_sts_b_has_the_known_rows_and_scores(glue):
    splits = TASKS["stsb"].load(Source(data=str(glue)))
    assert (len(splits.train), len(splits.evaluation)) == (5749, 1500)
    assert splits.train[0].texts == (
        "A plane is taking off.",
        "An air plane is taking off.",
    )
    assert splits.train[0].label == 5.0
    assert splits.label_names == ()


def test_texts_are_the_right_columns(glue):
    cola = TASKS["cola"].load(Source(data=str(glue)))
    assert cola.evaluation[0].texts == ("The sailors rode the breeze clear of the rocks.",)
    rte = TASKS["rte"].load(Source(data=str(glue)))
    assert rte.train[0].texts == (
        "No Weapons of Mass Destruction Found in Iraq Yet.",
        "Weapons of Mass Destruction Found in Iraq.",
    )


def write(folder, task, train, dev):
    (folder / task).mkdir()
    (folder / task / "train.tsv").write_text(train, encoding="utf-8")
    (folder / task / "dev.tsv").write_text(dev, encoding="utf-8")


def test_quotes_and_separators_inside_a_sentence_are_text(tmp_path):
    sentence = 'a "b \u2028 c\x0c d'
    write(
        tmp_path, "sst2", f"sentence\tlabel\n{sentence}\t1\nplain\t0", "sentence\tlabel\r\nx\t0\r\n"
    )
    splits = TASKS["sst2"].load(Source(data=str(tmp_path)))
    assert splits.train[0].texts == (sentence,)
    assert [example.label for example in splits.evaluation] == [0]


@pytest.mark.parametrize("name", ["CoLA", "cola", "."])
def test_official_folder_names_and_the_task_folder_itself_work(tmp_path, name):
    (tmp_path / name).mkdir(exist_ok=True)
    for file in ("train.tsv", "dev.tsv"):
        (tmp_path / name / file).write_text("s\t1\t\tA sentence.\n")
    assert len(TASKS["cola"].load(Source(data=str(tmp_path))).train) == 1


def test_faults_of_both_files_come_together(tmp_path):
    write(
        tmp_path,
        "rte",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tmaybe\n2\ta\tb\n",
        "index\tsentence1\thypothesis\tlabel\n",
    )
    with pytest.raises(ConfigError) as caught:
        TASKS["rte"].load(Source(data=str(tmp_path)))
    train, dev = tmp_path / "rte" / "train.tsv", tmp_path / "rte" / "dev.tsv"
    assert caught.value.faults == (
        f"{train}, line 3: label must be one of entailment, not_entailment, got 'maybe';"
        " correct the row",
        f"{train}, line 4: must have 4 fields, got 3; fix the row",
        f"{dev}: must have a column 'sentence2', got 'index', 'sentence1', 'hypothesis', 'label';"
        " name one or add it",
    )


@pytest.mark.parametrize("score", ["5.1", "-1", "nan", "high"])
def test_score_out_of_range_is_refused(tmp_path, score):
    write(
        tmp_path,
        "stsb",
        f"sentence1\tsentence2\tscore\na\tb\t{score}\n",
        "sentence1\tsentence2\tscore\na\tb\t2.5\n",
    )
    with pytest.raises(
        ConfigError, match=f"line 2: score must be a number from 0 to 5, got '{score}'"
    ):
        TASKS["stsb"].load(Source(data=str(tmp_path)))


def test_missing_folder_lists_the_searched_places(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--data must be a folder that holds rte/train.tsv"
    ) as caught:
        TASKS["rte"].load(Source(data=str(tmp_path)))
    assert str(tmp_path / "RTE" / "train.tsv") in str(caught.value)


def test_missing_dev_file_is_named(tmp_path):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\nx\t1\n")
    with pytest.raises(ConfigError, match=r"dev\.tsv: does not exist; check the path"):
        TASKS["sst2"].load(Source(data=str(tmp_path)))


MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def test_mrpc_has_a_byte_order_mark_and_columns_of_its_own(tmp_path):
    rows = MRPC_HEADER + '1\t7\t8\tHe said "no.\tHe refused.\n0\t9\t10\tA\tB\n'
    write(tmp_path, "mrpc", rows, rows)
    splits = TASKS["mrpc"].load(Source(data=str(tmp_path)))
    assert splits.train[0].texts == ('He said "no.', "He refused.")
    assert [splits.label_names[e.label] for e in splits.train] == ["equivalent", "not_equivalent"]


def test_qnli_asks_a_question_of_a_sentence(tmp_path):
    rows = "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1848.\tentailment\n"
    write(tmp_path, "qnli", rows, rows.replace("entailment", "not_entailment"))
    splits = TASKS["qnli"].load(Source(data=str(tmp_path)))
    assert splits.train[0].texts == ("When?", "In 1848.")
    assert (splits.train[0].label, splits.evaluation[0].label) == (0, 1)


ON_THE_HUB = {
    "cola": ({"sentence": "a", "label": 1, "idx": 0}, ("a",), "acceptable"),
    "sst2": ({"sentence": "a", "label": 0, "idx": 0}, ("a",), "negative"),
    "rte": ({"sentence1": "a", "sentence2": "b", "label": 1}, ("a", "b"), "not_entailment"),
    "mrpc": ({"sentence1": "a", "sentence2": "b", "label": 1}, ("a", "b"), "equivalent"),
    "qnli": ({"question": "a", "sentence": "b", "label": 0}, ("a", "b"), "entailment"),
    "stsb": ({"sentence1": "a", "sentence2": "b", "label": 3.5}, ("a", "b"), 3.5),
}


@pytest.fixture
def fake_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(dataset, part, split):
        asked.append((dataset, part, split))
        return [ON_THE_HUB[part][0]]

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_hub_is_asked_where_the_user_says_so(name, fake_hub):
    _, texts, label = ON_THE_HUB[name]
    splits = TASKS[name].load(Source(data="hub"))
    (example,) = splits.evaluation
    assert example.texts == texts
    assert (splits.label_names[example.label] if splits.label_names else example.label) == label
    assert fake_hub == [("nyu-mll/glue", name, "train"), ("nyu-mll/glue", name, "validation")]


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError) as caught:
        TASKS["rte"].load(Source(data="hub"))
    (fault,) = caught.value.faults
    assert fault.startswith("nyu-mll/glue, part 'rte', could not be fetched from the hub (Couldn't")
    assert "long story" not in fault
    assert "give --data FOLDER" in fault


def test_an_unlabelled_row_of_the_hub_is_refused(monkeypatch):
    datasets = pytest.importorskip("datasets")
    row = {"sentence1": "a", "sentence2": "b", "label": -1}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [row])
    with pytest.raises(ConfigError, match=r"nyu-mll/glue/rte, train, row 1: label must be one of"):
        TASKS["rte"].load(Source(data="hub"))
