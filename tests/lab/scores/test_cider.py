import math

import pytest

from hiddenkey.lab.scores.cider import cider


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
