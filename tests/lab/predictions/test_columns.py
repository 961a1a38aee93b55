"""The prediction is never the truth: what is taken, what is matched, what is asked."""

import csv
import io
import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.predictions.columns import Picked
from hiddenkey.lab.predictions.files import read_material
from hiddenkey.lab.predictions.labels import read_labels
from hiddenkey.lab.tasks import TASKS

NAMES = ("entailment", "not_entailment", "entailment", "entailment")
WRONG = ("not_entailment", "entailment", "not_entailment", "not_entailment")
RTE = "index\tsentence1\tsentence2\tlabel\n" + "".join(
    f"{10 + i}\tpremise {i}\tclaim {i}\t{name}\n" for i, name in enumerate(NAMES)
)
TEXTS = ("the cat sat", "it rains a lot", "we go home", "no")
ASKED = "give --prediction-column"


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


def write(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def labels(tmp_path):
    def read(
        content,
        suffix="jsonl",
        references=RTE,
        name="dev.tsv",
        task="rte",
        reference_names=(),
        **given,
    ):
        paths = write(tmp_path, name, references), write(tmp_path, f"out.{suffix}", content)
        found = read_labels(TASKS[task], *paths, Picked(references=reference_names, **given))
        right = sum(a == b for a, b in zip(found.true, found.predicted, strict=True))
        return right, found.taken

    return read


@pytest.fixture
def texts(tmp_path):
    def read(content, suffix="jsonl", references=None, name="ref.jsonl", **given):
        content_of_references = references or jsonl(*({"reference": text} for text in TEXTS))
        paths = (
            write(tmp_path, name, content_of_references),
            write(tmp_path, f"out.{suffix}", content),
        )
        return read_material("webnlg", *paths, Picked(**given))

    return read


def columns(**named):
    """Rows of these columns."""
    return jsonl(*(dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)))


@pytest.mark.parametrize(
    "named",
    [
        {"predict": WRONG, "label": NAMES},
        {"prompt": ["a"] * 4, "predict": WRONG, "label": NAMES},
        {"label": NAMES, "predicted_label": WRONG},
        {"label": NAMES, "labelPred": WRONG, "score": [0.9] * 4},
        {"target": NAMES, "guess": WRONG},
        {"gold_label": NAMES, "ours": WRONG, "model": ["bert"] * 4},
        {"output": WRONG, "label": NAMES},
        {"response": WRONG, "labels": NAMES},
        {"Label": NAMES, "Prediction": WRONG},
        {"label": NAMES, "y_pred": WRONG},
        {"label": WRONG, "score": [0.9] * 4},
        {"label": WRONG},
        {"messages": [[{"role": "user"}]] * 4, "probs": [{"a": 1}] * 4, "prediction": WRONG},
        {"Actual": NAMES, "Predicted": WRONG},
        {"gold_answer": NAMES, "answer": WRONG},
        {"instruction": [None] * 4, "output": NAMES, "prediction": WRONG},
    ],
)
def test_the_prediction_is_taken_and_not_the_truth(labels, named):
    right, taken = labels(columns(**named))
    assert right == 0
    assert named[taken.prediction] is WRONG


@pytest.mark.parametrize(
    "named",
    [
        {"label": NAMES, "guess": WRONG},
        {"prediction_1": NAMES, "prediction_2": WRONG},
        {"label": NAMES, "entail": WRONG},
        {"gold": NAMES},
        {"truth": NAMES, "label": NAMES, "mine": WRONG},
        {"Prediction": NAMES, "prediction": WRONG},
        {"output": NAMES, "answer": WRONG},
        {"output": NAMES, "mine": WRONG},
    ],
)
def test_where_two_columns_could_be_the_prediction_the_user_is_asked(labels, named):
    with pytest.raises(ConfigError, match=ASKED) as caught:
        labels(columns(**named))
    shown = str(caught.value)
    assert all(repr(name) in shown for name in named if name not in ("truth",))
    wanted = [*named][-1]
    right, taken = labels(columns(**named), prediction=wanted)
    assert (right, taken.prediction) == (0 if named[wanted] is WRONG else 4, wanted)


def test_a_prediction_with_a_wrong_spelling_does_not_make_way_for_the_truth(labels):
    with pytest.raises(ConfigError, match="label must be one of"):
        labels(columns(prediction=["LABEL_0"] * 4, label=NAMES))
    with pytest.raises(ConfigError, match="line 1: column 'prediction' must hold"):
        labels(jsonl({"label": "entailment"}, *[{"prediction": 0, "label": 0}] * 3))


def test_a_truth_that_disagrees_is_refused_with_its_row(labels, texts):
    moved = NAMES[1:] + NAMES[:1]
    with pytest.raises(ConfigError, match=r"line 1: says that 'not_entailment' is right"):
        labels(columns(predict=WRONG, label=moved))
    with pytest.raises(ConfigError, match=r"line 3: says that 'no' is right"):
        texts(columns(predict=TEXTS, label=[*TEXTS[:2], TEXTS[3], TEXTS[2]]))
    # a truth that is taken for the prediction, and the prediction for the truth
    with pytest.raises(ConfigError, match="says that"):
        texts(columns(output=TEXTS, label=["x", "y", "z", "w"]))


def test_rows_in_another_order_are_matched_by_their_identifiers(labels):
    order = [2, 0, 3, 1]
    rows = [{"index": 10 + i, "prediction": NAMES[i]} for i in order]
    assert labels(jsonl(*rows)) == (4, Picked("prediction", ("label",), "index"))
    as_text = table(("", "index", "prediction"), *((9 - i, f"{10 + i}.0", NAMES[i]) for i in order))
    assert labels(as_text, "csv")[0] == 4


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", ["id", "", "Unnamed: 0", "row_number", "__index_level_0__"])
def test_row_numbers_are_followed_where_the_references_have_no_identifiers(texts, name, start):
    order = [2, 0, 3, 1]
    rows = [{name: start + i, "output": TEXTS[i]} for i in order]
    assert texts(jsonl(*rows)).outputs == TEXTS


@pytest.mark.parametrize(
    "names", [[2, 0, 3, 3], [5, 2, 0, 1], ["a", "b", "c", "d"], [None, 0, 1, 2], [10, 11, 12, 14]]
)
def test_identifiers_that_do_not_fit_are_refused(labels, texts, names):
    with pytest.raises(ConfigError, match="each once, got"):
        texts(columns(id=names, output=TEXTS))
    with pytest.raises(ConfigError, match="the references' identifiers, each once, got"):
        labels(columns(index=names, prediction=NAMES))


def test_a_column_of_identifiers_can_be_named(texts):
    references = columns(code=["a", "b", "c", "d"], reference=TEXTS)
    outputs = columns(code=["d", "c", "b", "a"], output=TEXTS[::-1])
    assert (
        texts(outputs, references=references, prediction="output", identifier="code").outputs
        == TEXTS
    )
    with pytest.raises(ConfigError, match="must have a column 'kode'; give another --id-column"):
        texts(outputs, references=references, prediction="output", identifier="kode")


def test_plain_row_numbers_go_with_identifiers_of_another_kind(labels, texts):
    assert labels(columns(id=[0, 1, 2, 3], prediction=NAMES))[0] == 4
    references = columns(id=[2, 1, 3, 4], reference=TEXTS)
    with pytest.raises(ConfigError, match="the references' identifiers"):
        texts(columns(id=[0, 1, 2, 3], output=TEXTS), references=references)


def test_rows_of_one_identifier_are_one_instance(texts):
    references = columns(id=[7, 9, 7], reference=["a", "b", "c"])
    found = texts(columns(id=[9, 7], output=["x", "y"]), references=references)
    assert found.references == [("a", "c"), ("b",)]
    assert found.outputs == ("y", "x")


def test_sentences_of_another_order_are_refused(labels):
    moved = [f"premise {i}" for i in (1, 0, 2, 3)]
    with pytest.raises(ConfigError, match="line 1: must answer the references' instances"):
        labels(columns(sentence1=moved, prediction=NAMES))
    whole = [f"Does 'premise {i}' entail 'claim {i}'?" for i in range(4)]
    assert labels(columns(prompt=whole, predict=NAMES, label=NAMES))[0] == 4
    with pytest.raises(ConfigError, match="line 2: must answer the references' instances"):
        labels(columns(prompt=[whole[0], *whole[2:], whole[1]], predict=NAMES))


def test_one_file_may_hold_both(tmp_path):
    path = write(
        tmp_path, "both.jsonl", columns(prompt=[*"ppqr"], predict=TEXTS[::-1], label=TEXTS)
    )
    found = read_material("e2e", path, path)
    assert found.outputs == TEXTS[::-1]
    assert found.references == [(text,) for text in TEXTS]
    assert found.taken == Picked("predict", ("label",))


def test_the_references_are_no_outputs(tmp_path):
    path = write(tmp_path, "dev.tsv", RTE)
    with pytest.raises(ConfigError, match="got the references themselves"):
        read_labels(TASKS["rte"], path, path)
    with pytest.raises(ConfigError, match="got the references themselves"):
        read_labels(TASKS["rte"], path, write(tmp_path, "copy.tsv", RTE))
    path = write(tmp_path, "a.txt", "a\n\nb\n")
    with pytest.raises(ConfigError, match="got the references themselves"):
        read_material("e2e", path, path)


def test_a_file_of_another_layout_is_read_by_the_column_that_is_named(labels):
    both = columns(predict=WRONG, answer=NAMES)
    named = {"references": both, "name": "a.jsonl"}
    assert labels(both, **named, reference_names=("answer",))[0] == 0


def test_several_columns_of_references(texts):
    rows = [("ref1", "ref2"), *zip(TEXTS, ["b", "", "d", ""], strict=True)]
    found = texts(jsonl(*({"output": t} for t in TEXTS)), references=table(*rows), name="r.csv")
    assert found.references == [(TEXTS[0], "b"), (TEXTS[1],), (TEXTS[2], "d"), (TEXTS[3],)]
    assert found.taken.references == ("ref1", "ref2")
    rows[0] = ("reference", "reference_2")
    found = texts("x\n" * 4, "txt", references=table(*rows), name="r.csv")
    assert found.taken.references == rows[0]
    two = columns(reference=TEXTS, target=["a", "b", "c", "d"])
    with pytest.raises(ConfigError, match="'reference', 'target' each could be; give --reference"):
        texts("x\n" * 4, "txt", references=two)


@pytest.mark.parametrize("write_list", [json.dumps, repr])
def test_lists_in_quotes_are_refused_where_a_text_is_to_be(texts, write_list):
    rows = table(("reference",), *((text,) for text in TEXTS[1:]), (write_list(["a", "it's b"]),))
    with pytest.raises(ConfigError, match=r"line 5: a reference must be a text, got .*jsonl"):
        texts("x\n" * 4, "txt", references=rows, name="r.csv")
    outputs = [write_list([text]) for text in TEXTS]
    with pytest.raises(ConfigError, match="column 'output' must hold texts, got only lists"):
        texts(table(("output",), *((text,) for text in outputs)), "csv")
    mixed = (*TEXTS[1:], outputs[0])
    assert texts(table(("output",), *((text,) for text in mixed)), "csv").outputs == mixed
    assert texts(columns(output=outputs)).outputs == tuple(outputs)
    lists = jsonl(*({"references": [text, "b"]} for text in TEXTS))
    assert texts("x\n" * 4, "txt", references=lists).references == [(t, "b") for t in TEXTS]


def test_json_under_another_name_is_no_text(texts):
    for content in (columns(predict=TEXTS), json.dumps([{"predict": "a"}] * 4, indent=1)):
        with pytest.raises(ConfigError, match="must be plain text, got JSON"):
            texts(content, "json")


def test_columns_under_another_name_are_no_text(texts):
    with pytest.raises(ConfigError, match="got columns with tabs between"):
        texts("".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS)), "txt")


def test_a_row_has_one_label(labels):
    with pytest.raises(ConfigError, match="must have one label a row"):
        labels(columns(prediction=NAMES), reference_names=("label", "index"))


def test_a_column_cannot_be_chosen_of_plain_text(texts):
    with pytest.raises(ConfigError, match="must be a table to choose a column of"):
        texts("x\n" * 4, "txt", prediction="output")
