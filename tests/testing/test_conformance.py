"""The fixture, and the batches that are made for it."""

import pytest
import torch

from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.testing import Finding, Report, padded_batches
from models import batch
from testing.own_models import AttentionPooling, own_model
from testing.test_attention import by_hand

pytest_plugins = "hiddenkey.testing.plugin"


def test_the_fixture_examines_all_kinds(conformance):
    assert conformance.model(own_model(), batch(padding="none"), config="hiddencut").passed
    assert conformance.pattern(PATTERNS["column"], together="entries").passed
    assert conformance.position("hidden", own_model(), batch(padding="none")).passed
    assert conformance.attention(by_hand).passed


def test_the_fixture_raises_with_what_was_found(conformance):
    with pytest.raises(AssertionError, match=r"FAILED  coverage: the model computes _softmax"):
        conformance.model(own_model(AttentionPooling), batch(padding="none"))


def test_a_report_shows_its_failures_first_hand():
    good, bad = Finding("a", True, "well"), Finding("b", False, "not well")
    report = Report("thing", (good, bad))
    assert not report.passed
    assert report.failures == (bad,)
    assert str(report) == "thing:\n  passed  a: well\n  FAILED  b: not well"


def test_padded_batches_hide_labels_of_padding():
    plain = batch("causal", "none", tokens=6)
    made = padded_batches(plain, pad_token=0)
    assert list(made) == ["plain", "padded right", "padded left", "almost all padding"]
    assert made["plain"] is plain
    left = made["padded left"]
    assert left["attention_mask"][1].tolist() == [0, 0, 1, 1, 1, 1]
    assert left["attention_mask"][0].all()
    assert left["input_ids"][1, :2].tolist() == [0, 0]
    # nothing visible comes before the first visible token, to predict it from
    assert left["labels"][1].ne(-100).tolist() == [False, False, False, True, True, True]
    assert made["almost all padding"]["attention_mask"][1].tolist() == [1, 0, 0, 0, 0, 0]


def test_labels_of_their_own_stay():
    """Those of an encoder-decoder belong to the decoder, whatever their shape."""
    plain = batch("causal", "none")
    made = padded_batches(plain, shared_labels=False)["padded left"]
    assert made["labels"].equal(plain["labels"])
    assert made["input_ids"].equal(plain["input_ids"])


def test_batches_without_text_stay_alone():
    pixels = {"pixel_values": torch.ones(2, 3, 4, 4)}
    assert padded_batches(pixels) == {"plain": pixels}
