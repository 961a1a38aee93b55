import math

import pytest

from hiddenkey.lab.scores.e2e import nist


def split(*texts):
    return [text.split(" ") for text in texts]


def test_from_the_definition():
    # counts in the reference: a 2, b 1, c 1 of 4 tokens; ab, ba, ac 1 each
    # information: a log2(4/2) = 1, b and c log2(4/1) = 2, ab log2(2/1) = 1
    value = nist([split("a b a c")], split("a b x y z"))
    assert value == pytest.approx((1 + 2) / 5 + 1 / 4)


def test_information_counts_over_all_references_of_all_instances():
    references = [split("a b c", "a b d"), split("a e e e e e")]
    # 12 tokens, a 3 times; ab 2 times and abc once
    value = nist(references, split("a b c q q q", "q q q q q q"))
    one = (math.log2(12 / 3) + math.log2(12 / 2) + math.log2(12 / 1)) / 12
    two = (math.log2(3 / 2) + math.log2(2 / 1)) / 10
    three = math.log2(2 / 1) / 8
    assert value == pytest.approx(one + two + three)


@pytest.mark.parametrize(("words", "factor"), [(9, 1.0), (6, 1.0), (4, 0.5), (5, None)])
def test_brevity_is_one_half_at_two_thirds(words, factor):
    # references of 4 and 8 tokens: 6 on average
    references = [split("a b c d", "a b c d e f g h")]
    value = nist(references, [["a", *["q"] * (words - 1)]])
    if factor is None:
        factor = math.exp(math.log(0.5) * (math.log(5 / 6) / math.log(2 / 3)) ** 2)
    assert value == pytest.approx(factor * math.log2(12 / 2) / words)


def test_orders_without_a_candidate_add_nothing():
    assert nist([split("a b")], split("a b")) == pytest.approx((math.log2(2) * 2) / 2)
    assert nist([split("a b")], split("x")) == 0.0
