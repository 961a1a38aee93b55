import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.scores.e2e import cider, rouge_l

pytest.importorskip("pycocoevalcap")

WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


def test_precision_and_recall_may_come_from_different_references():
    # "the cat" is 2 of the output's 3 tokens, and 2 of the first reference's 6
    # "was" is 1 of the second reference's 2
    precision, recall, beta = 2 / 3, 1 / 2, 1.2
    value = rouge_l([["the big cat sat down here", "was it"]], ["the cat was"])
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert value == pytest.approx(expected)


def test_mean_over_instances():
    assert rouge_l([["a b"], ["c"]], ["a b", "d"]) == pytest.approx(0.5)
    assert rouge_l([["a"]], [""]) == 0.0


@given(WORDS, WORDS)
def test_subsequence_equals_the_recursive_definition(one, other):
    def length(a, b):
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + length(a[1:], b[1:])
        return max(length(a[1:], b), length(a, b[1:]))

    common, beta = length(one, other), 1.2
    precision, recall = common / len(other), common / len(one)
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if common else 0
    assert rouge_l([[" ".join(one)]], [" ".join(other)]) == pytest.approx(expected)


def test_identical_texts_have_cosine_one_for_each_order_that_they_have():
    # two tokens: orders 1 and 2 of 4, and ten times that
    assert cider([["a b"], ["c d"]], ["a b", "c d"]) == pytest.approx(10 * 2 / 4)
    assert cider([["a b c d"], ["e f g h"]], ["a b c d", "e f g h"]) == pytest.approx(10)


def test_repetition_is_clipped_and_length_penalised():
    # weight L = log 2 for each word; output (4L), reference (L, L); lengths 3 and 1 in bigrams
    cosine = 1 * 1 / (4 * math.sqrt(2))
    first = 10 * math.exp(-((3 - 1) ** 2) / (2 * 6**2)) * cosine / 4
    assert cider([["a b"], ["c d"]], ["a a a a", ""]) == pytest.approx(first / 2)


def test_what_every_instance_has_weighs_nothing():
    assert cider([["a"], ["a"]], ["a", "a"]) == 0.0
    assert cider([["a b c"]], ["a b c"]) == 0.0, "one instance has no rarity"


def test_references_are_averaged_and_rarity_counts_instances():
    # "a" is in one instance of three although in two references
    references = [["a", "a b"], ["c"], ["d"]]
    with_two = 10 * (1 / 4) * 1  # only unigrams match the first reference
    cosine = 1 / math.sqrt(2)
    with_pair = 10 * (cosine / 4) * math.exp(-1 / 72)
    value = cider(references, ["a", "x", "x"])
    assert value == pytest.approx((with_two + with_pair) / 2 / 3)


def test_empty_texts_score_nothing():
    assert cider([[""], [""]], ["", "a"]) == 0.0
