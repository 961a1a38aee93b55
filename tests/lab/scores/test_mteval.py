from collections import Counter

import pytest

from hiddenkey.lab.scores.e2e import count_matches, count_ngrams, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's near, Burger King.", ["it's", "near", ",", "burger", "king", "."]),
        ("a family-friendly pub", ["a", "family-friendly", "pub"]),
        ("20-25 or 3.5 or 1,000", ["20", "-", "25", "or", "3.5", "or", "1,000"]),
        ("5. 6,", ["5", ".", "6", ","]),
        ("v1.a", ["v1", ".", "a"]),
        ("£20 (cheap!)", ["£20", "(", "cheap", "!", ")"]),
        ("a_b ^c~ `d`", ["a", "_", "b", "^", "c", "~", "`", "d", "`"]),
        ("Q&amp;A &quot;x&quot; &lt;y&gt;", ["q", "&", "a", '"', "x", '"', "<", "y", ">"]),
        ("re-\nread\nit", ["reread", "it"]),
        ("a <skipped> b\t c\u00a0d", ["a", "b", "c", "d"]),
        ("CAFÉ", ["café"]),
        ("", [""]),
        ("  ", [""]),
    ],
)
def test_tokens_follow_mteval(text, tokens):
    assert tokenize(text) == tokens


def test_ngrams_of_a_short_text():
    assert count_ngrams(["a", "b", "a", "b"], 2) == Counter({("a", "b"): 2, ("b", "a"): 1})
    assert count_ngrams(["a"], 2) == Counter()


def test_a_match_counts_as_often_as_the_best_reference_has_it():
    references = [["the", "cat"], ["the", "the", "mat"]]
    matches = count_matches(["the"] * 5 + ["cat"], references, 1)
    assert matches == Counter({("the",): 2, ("cat",): 1})
