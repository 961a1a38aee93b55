import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.scores.rouge import longest_common_subsequence, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


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

    assert longest_common_subsequence(one, other) == length(one, other)
