"""Exact match and token F1 of short answers, and what BLEU says of them."""

import pytest

from hiddenkey.lab import scores
from hiddenkey.lab.scores import answers
from hiddenkey.lab.scores.java import MissingToolError


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    def find():
        raise MissingToolError("no Java here")

    monkeypatch.setattr(scores, "find_tools", find)


@pytest.mark.parametrize(
    ("output", "reference", "exact", "f1"),
    [
        ("yes", "Yes.", 1, 1),
        ("The Eiffel  Tower!", "eiffel tower", 1, 1),
        ("Eiffel Tower in Paris", "the Eiffel Tower", 0, 2 * 2 / (4 + 2)),
        ("no", "yes", 0, 0),
        ("", "yes", 0, 0),
        ("1,000", "1000", 1, 1),
        # no 35 for 3.5, no 5 for -5, no answer A for an empty one
        ("35", "3.5", 0, 0),
        ("5", "-5", 0, 0),
        ("$3.50.", "3.50", 1, 1),
        ("1030", "10:30", 0, 0),
        ("", "A", 0, 0),
        ("The", "A", 0, 0),
        ("a", "A", 1, 1),
        ("+", "-", 0, 0),
        ("\u6211\u5bb6", "\u6211\u4eec", 0, 0.5),
    ],
)
def test_of_one_reference(output, reference, exact, f1):
    assert answers.exact_match([reference], output) == exact
    assert answers.token_f1([reference], output) == pytest.approx(f1)


def test_the_best_reference_counts():
    assert answers.exact_match(["no", "yes"], "yes") == 1
    assert answers.token_f1(["a b c d", "b c"], "b") == pytest.approx(2 / 3)


def test_one_word_answers_that_are_all_right():
    texts = ["yes", "no", "Paris", "42"]
    found = scores.score_groups("completion", [(t,) for t in texts], texts, {"all": range(4)})
    values = found["all"].values
    assert (values["exact_match"], values["token_f1"]) == (1, 1)
    assert values["BLEU"] < 1e-3
    assert "BLEU counts runs of up to four and means nothing here" in found["all"].note


def test_groups_have_values_of_their_own():
    references = [("yes",), ("no",), ("yes", "yeah")]
    found = scores.score_groups(
        "completion", references, ["yes", "yes", "yeah"], {"all": [0, 1, 2], "new": [1, 2]}
    )
    assert found["all"].values["exact_match"] == pytest.approx(2 / 3)
    assert found["new"].values["exact_match"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ([("yes",), ("no", "not at all"), ("a long answer of many words",)], "exact_match"),
        ([("yes",), ("it was a very good day",), ("a long answer of many words",)], "BLEU"),
        ([("\u6211\u4eec\u4eca\u5929\u56de\u5bb6",)] * 3, "token_f1"),
        ([("yes",), ("what a nice long day",)], "BLEU"),
    ],
)
def test_the_references_choose_the_main_metric(references, expected):
    assert answers.main_metric(references) == expected
