import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.predictions.files import read_material
from hiddenkey.lab.scores import METRICS, score_groups
from lab.scores.whole import score_whole

WORDS = st.lists(st.sampled_from(["a", "pub", "3.5", "near-by", "it's"]), min_size=4, max_size=9)
TEXT = WORDS.map(" ".join)
INSTANCE = st.tuples(st.lists(TEXT, min_size=1, max_size=3), st.one_of(TEXT, st.just("")))


@pytest.fixture(scope="module")
def example(glue):
    """Official references and outputs, and what the official scorer gives for them."""
    folder = glue / "e2e_scorer_example"
    official = json.loads((folder / "scores.json").read_text())
    material = read_material("e2e", folder / official["references"], folder / official["system"])
    return material, {name: official[name] for name in METRICS["e2e"]}


@pytest.fixture(scope="module")
def scored(example, tools):
    """The official example among other outputs for its references; Java starts slowly."""
    references, outputs = list(example[0].references), list(example[0].outputs)
    size = len(outputs)
    singles = [texts[:1] for texts in references]
    first = [texts[0] for texts in singles]
    parts = {
        "official": (references, outputs),
        "same": (singles, first),
        "reversed": (singles, first[::-1]),
        "nothing": (references, [""] * size),
    }
    groups = {name: range(i * size, (i + 1) * size) for i, name in enumerate(parts)}
    shuffled = random.Random(1).sample(range(size), size)
    return score_groups(
        "e2e",
        [texts for given, _ in parts.values() for texts in given],
        [text for _, given in parts.values() for text in given],
        {**groups, "shuffled": shuffled},
    )


def test_official_example(example, tools):
    material, official = example
    scores = score_whole("e2e", material.references, material.outputs)
    assert scores.skipped == {}
    assert list(scores.values) == list(official)
    for name in ("BLEU", "NIST"):
        assert round(scores.values[name], 4) == official[name]
    for name in ("METEOR", "ROUGE_L", "CIDEr"):
        assert scores.values[name] == pytest.approx(official[name], abs=1e-3)


def test_bleu_and_nist_of_the_official_example_need_no_java(example, no_tools):
    material, official = example
    scores = score_whole("e2e", material.references, material.outputs)
    assert {name: round(value, 4) for name, value in scores.values.items()} == {
        name: official[name] for name in ("BLEU", "NIST")
    }
    assert set(scores.skipped) == {"METEOR", "ROUGE_L", "CIDEr"}


def test_groups_score_as_if_alone_in_any_order(example, scored):
    _, official = example
    assert scored["official"].values == pytest.approx(official, abs=6e-5)
    assert scored["shuffled"].values == pytest.approx(scored["official"].values)


def test_identical_outputs_are_the_best_and_empty_ones_the_worst(scored):
    same, nothing = scored["same"].values, scored["nothing"].values
    assert (same["BLEU"], same["ROUGE_L"], same["METEOR"]) == pytest.approx((1.0, 1.0, 1.0))
    assert same["CIDEr"] == pytest.approx(10.0)
    assert same["NIST"] > scored["reversed"].values["NIST"]
    assert nothing == pytest.approx(dict.fromkeys(nothing, 0.0), abs=1e-9)


@given(st.lists(INSTANCE, min_size=1, max_size=5), st.randoms())
def test_order_of_instances_and_of_references_does_not_matter(instances, generator):
    shuffled = [(generator.sample(texts, len(texts)), output) for texts, output in instances]
    generator.shuffle(shuffled)
    one, other = (bleu_and_nist(*zip(*order, strict=True)) for order in (instances, shuffled))
    assert one == pytest.approx(other)


@given(st.lists(INSTANCE, min_size=1, max_size=5))
def test_an_output_that_is_a_reference_has_bleu_one(instances):
    references = [texts for texts, _ in instances]
    assert bleu_and_nist(references, [texts[-1] for texts in references])["BLEU"] == pytest.approx(
        1
    )
    values = bleu_and_nist(*zip(*instances, strict=True))
    assert values["BLEU"] >= 0
    assert values["NIST"] >= 0


def bleu_and_nist(references, outputs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.delenv("JAVA_HOME", raising=False)
        return score_whole("e2e", references, outputs).values


@pytest.mark.parametrize(
    ("references", "outputs", "message"),
    [
        ([["a"]], ["a", "b"], "one output for each instance.* got 2 outputs for 1 instances"),
        ([], [], "at least one instance, got 0 outputs for 0 instances"),
        ([["a"], []], ["a", "b"], "must have a reference, got none for instance 1; leave"),
    ],
)
def test_refusals(references, outputs, message):
    with pytest.raises(ValueError, match=message):
        score_whole("e2e", references, outputs)


def test_an_empty_group_is_refused():
    with pytest.raises(ValueError, match="group 'unseen' must hold an instance, got none"):
        score_groups("e2e", [["a"]], ["a"], {"unseen": []})
