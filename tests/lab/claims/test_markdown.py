import dataclasses
import re

import pytest

from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.page import markdown as written
from hiddenkey.lab.present.markup import Picture
from lab.claims.synthetic import claims, evidence


def markdown(found):
    return written(found, [Picture(plot, "") for plot in list_plots(found)])


@pytest.fixture(scope="module")
def found():
    return evidence(planned=range(7), missing=12)


@pytest.fixture(scope="module")
def text(found):
    return markdown(found)


def rows_of(text, heading):
    """Cells of the first table with such a heading."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[start + 2 : end]
    ]


def test_the_section_begins_with_date_and_command(text):
    lines = text.splitlines()
    assert lines[0] == "## 2026-11-21 · Claims, scale small"
    assert lines[2] == "    hiddenkey claims --scale small --data GLUE_FOLDER"
    assert "torch 2.13.0+cpu" in text
    assert "from 2026-11-21 16:40 to 19:10 UTC" in text


def test_every_claim_has_heading_sentences_and_effects(found, text):
    for finding in found.findings:
        heading = f"### {finding.claim.name}: {finding.claim.title}: {finding.verdict}"
        assert text.count(heading) == 1
        part = re.sub(r"\s+", " ", text.partition(heading)[2].partition("\n### ")[0])
        part = re.sub(r"\\(.)", r"\1", part)
        for sentence in finding.sentences:
            assert f"- {sentence}" in part
        assert part.count("| margin |") == 1
        for effect in finding.questions:
            assert effect.contrast.name in part


def test_summary_table(found, text):
    rows = rows_of(text, "claim")
    assert [(row[0], row[2]) for row in rows] == [
        (f"**{finding.claim.name}**", f"**{finding.verdict}**") for finding in found.findings
    ]


def test_every_task_of_the_claims_is_described_once(found, text):
    named = [task for f in found.findings for task in f.claim.tasks]
    assert len(named) > len(set(named))
    assert text.count("| task | its runs |") == 1
    rows = rows_of(text, "task | its runs | floor, points | plain LoRA, points | counts")
    assert [row[0] for row in rows] == list(dict.fromkeys(named))


def test_grids_pictures_and_settings(found, text):
    assert "| attention logits | 8" in text
    names = re.findall(r"!\[[^\n]*\]\((\w+\.png)\)", text)
    assert names == [
        "claims_small_c1_1.png", "claims_small_c1_2.png", "claims_small_c2_1.png",
        "claims_small_c4_1.png", "claims_small_c5_1.png", "claims_small_c9_1.png",
    ]  # fmt: skip
    assert rows_of(text, "task")[0][0] == "headlines"
    assert "| headlines | dropkey | 0.001 | 0.1 | 0.812 | 8 |" in text


def test_what_is_missing_stands_out(text):
    assert "\n> Provisional: runs or measurements of the plan" in text
    assert "Provisional" not in markdown(evidence())


def test_no_runs_have_no_date():
    text = markdown(evidence(values={}))
    assert text.startswith("## Claims, scale small\n")
    assert "> No run has finished yet" in text
    assert "![" not in text


def test_lines_of_prose_are_short_and_begin_no_list(text):
    for line in text.splitlines():
        if not line.startswith(("|", "!", "#")):
            assert len(line) <= 100
    wordy = dataclasses.replace(claims()[0], how="a " * 48 + "99 1. 2) + - # words " * 5)
    lines = markdown(evidence(chosen=(wordy,))).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("The test:"))
    part = lines[start : lines.index("", start)]
    assert len(part) > 1
    assert not [line for line in part if re.match(r"(\d+[.)]|[-+#]) ", line)]


def test_hostile_text_stays_text():
    hostile = dataclasses.replace(claims()[0], title="<script>| *a* [b](c) `d`")
    text = markdown(evidence(chosen=(hostile,)))
    assert "<script>" not in text
    assert r"\<script\>\| \*a\* \[b\](c) \`d\`" in text


def test_the_same_evidence_gives_the_same_text(found, text):
    assert markdown(found) == text
