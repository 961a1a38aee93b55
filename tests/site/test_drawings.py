"""The drawings of the concepts show masks of the library, and are those that the script writes."""

import re

import matplotlib
import pytest

import drawings
from drawings import DRAWINGS, FOLDER, VISIBLE, masks


def test_the_masks_are_of_their_patterns():
    drawn = masks()
    for place in ("attention", "sequence"):
        for pattern in ("column", "span"):
            keep = drawn[place, pattern]
            assert (keep == keep[:1]).all(), "a column is dropped whole"
        dropped = (~drawn[place, "span"][0]).nonzero().flatten().tolist()
        assert dropped == list(range(dropped[0], dropped[0] + round(drawings.RATE * VISIBLE)))
        dropped = (~drawn[place, "column"][0]).nonzero().flatten().tolist()
        assert dropped[-1] - dropped[0] >= len(dropped), "unlike a span, it has gaps"
        assert 0 < (~drawn[place, "element"]).sum() < drawn[place, "element"].numel()
    for place, pattern in (("bottleneck", "rank"), ("input", "two-sided"), ("update", "two-sided")):
        keep = drawn[place, pattern]
        assert (keep == keep[:, :1]).all()
        assert not keep.all()


def test_padding_is_never_dropped():
    for (place, pattern), keep in masks().items():
        if pattern in ("element", "column", "span") and place != "vector":
            assert keep[:, VISIBLE:].all()


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_files_are_what_the_script_writes(name):
    stored = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert len(stored) < 60_000
    version = re.search(r"Matplotlib v([\d.]+),", stored)[1]
    if version != matplotlib.__version__:
        pytest.skip(f"drawn by matplotlib {version}")
    assert DRAWINGS[name]() == stored, "run python maintenance/drawings.py"
