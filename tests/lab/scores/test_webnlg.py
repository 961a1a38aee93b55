import math

import pytest
from sacrebleu.metrics.ter import TER

from hiddenkey.lab.scores.webnlg import tokenize
from lab.scores.whole import score_whole


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Café's 3.5 stars.", "the cafe ' s 3 . 5 stars ."),
        ("Alan_Bean (born 1932)", "alan_bean ( born 1932 )"),
        ("1999\u20132000 \u201cx\u201d", '1999 - 2000 " x "'),
        ("İstanbul, Łódź, Ærø, Straße", "istanbul , lodz , aero , strasse"),
        ("  a\n b ", "a b"),
        ("日本", "日本"),
        ("", ""),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens
    assert tokenize(tokens) == tokens


def score(references, outputs):
    return score_whole("webnlg", references, outputs).values


@pytest.fixture(autouse=True)
def _without_java(request):
    """Only the tests of METEOR wait for Java."""
    if "tools" not in request.fixturenames:
        request.getfixturevalue("no_tools")


def test_bleu_from_the_definition():
    # "a b c d e" against "a b c d f g": 4/5, 3/4, 2/3 and 1/2; case does not matter
    value = score([["A b C d f g"]], ["a B c D e"])["BLEU"]
    expected = math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert value == pytest.approx(100 * expected)


def test_bleu_without_a_match_of_four_is_zero():
    assert score([["a b c x d e f"]], ["a b c d e f"])["BLEU"] == pytest.approx(0, abs=1e-9)


def test_instances_may_have_different_numbers_of_references():
    references = [["a b c d"], ["p q r s", "t u v w", "p q r w"], ["k l m n", "k"]]
    same = score(references, ["a b c d", "t u v w", "k l m n"])
    assert same["BLEU"] == pytest.approx(100)
    assert same["TER"] == 0.0


def test_ter_from_the_definition():
    # one substitution against the first, two against the second reference; mean length (4 + 2) / 2
    assert score([["a b c d", "a b"]], ["a b c e"])["TER"] == pytest.approx(1 / 3)
    # a moved run of words is one edit
    assert score([["d a b c"]], ["a b c d"])["TER"] == pytest.approx(1 / 4)
    # nothing was said: every word has to be put in
    assert score([["a b c d"]], [""])["TER"] == 1.0


def test_ter_is_that_of_sacrebleu_over_the_corpus():
    references = [["the cat sat on a mat", "a cat was there"], ["dogs bark"], ["it rains"]]
    outputs = ["a mat the cat sat on", "dogs do bark now", ""]
    columns = [[texts[0] for texts in references], [references[0][1], None, None]]
    assert score(references, outputs)["TER"] == pytest.approx(
        TER().corpus_score(outputs, columns).score / 100
    )


def test_texts_without_a_token():
    assert score([[" "]], ["a"])["TER"] == 1.0
    assert score([[" "]], [" "]) == {"BLEU": 0.0, "TER": 0.0}


def test_meteor_is_skipped_with_the_reason():
    scores = score_whole("webnlg", [["a"]], ["a"])
    assert scores.skipped == {"METEOR": "needs Java, no 'java' was found; install a Java runtime"}


def test_meteor_sees_the_same_tokens(tools):
    scores = score_whole("webnlg", [["The Café."], ["A b c d!"]], ["the CAFE .", "a B c d !"])
    assert list(scores.values) == ["BLEU", "METEOR", "TER"]
    assert scores.values["METEOR"] == pytest.approx(1.0)
    assert scores.skipped == {}
