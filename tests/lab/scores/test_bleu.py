import math

import pytest

from hiddenkey.lab.scores.e2e import bleu


def split(*texts):
    return [text.split(" ") for text in texts]


def test_from_the_definition():
    # matches 4/5, 3/4, 2/3 and 1/2 for n = 1 to 4; five tokens against six
    value = bleu([split("a b c d f g")], split("a b c d e"))
    assert value == pytest.approx(math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))


def test_counts_are_summed_before_they_are_divided():
    references = [split("a b c d"), split("p q r s t u")]
    value = bleu(references, split("a b c d", "p q x y z w"))
    # 4 + 2 of 10, 3 + 1 of 8, 2 + 0 of 6, 1 + 0 of 4
    assert value == pytest.approx((6 / 10 * 4 / 8 * 2 / 6 * 1 / 4) ** (1 / 4))


@pytest.mark.parametrize(
    ("lengths", "closest"),
    [((3, 9), 3), ((4, 6), 4), ((6, 4), 4), ((6, 7), 6), ((2, 6), 6)],
)
def test_brevity_compares_with_the_closest_reference_the_shorter_of_two(lengths, closest):
    output = ["a", "b", "c", "d", "e"]
    # the first reference holds every n-gram, so that only the lengths differ
    references = [[*output, "x"] * 9, *(["z"] * length for length in lengths)]
    value = bleu([references], [output])
    assert value == pytest.approx(min(1.0, math.exp(1 - closest / 5)))


def test_without_a_match_it_is_tiny_but_defined():
    assert 0 < bleu([split("a b c d")], split("x y z w")) < 1e-10


def test_an_empty_output_is_one_token_that_never_matches():
    alone = bleu([split("a b c d e"), split("p q")], split("a b c d e", ""))
    # 5 of 5 + 1; 4 of 4 + 0; 3 of 3 - 1; 2 of 2 - 2: negative counts for n-grams that do not fit
    matches = 5 / 6 * 4 / 4 * 3 / 2 * 2 / 1e-9
    assert alone == pytest.approx(math.exp(1 - 7 / 6) * matches ** (1 / 4))
