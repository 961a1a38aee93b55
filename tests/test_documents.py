"""Links and pictures of the documents lead somewhere, also those to a heading."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```|^(?: {4}.*\n)+|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@cache
def anchors(page):
    """The names that headings get on the page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), target
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), f"{target}#{anchor}"


def test_links_are_found():
    assert LINK.findall("[a](b.md#c) ![d](e.png) [f](https://g)") == [("b.md", "c"), ("e.png", "")]
