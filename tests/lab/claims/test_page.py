import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.findings import Setting
from hiddenkey.lab.claims.page import render_page
from hiddenkey.lab.claims.plan import Claim, Contrast
from hiddenkey.lab.claims.sentences import RULE
from hiddenkey.lab.claims.tables import chosen_grid, scores_grid
from hiddenkey.lab.present.markup import Picture
from lab.claims.synthetic import TASKS, claims, evidence, measure

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'n' </style><!-- {{ 7*7 }}"
COUNTED = TASKS[:2]


class Page(HTMLParser):
    """Collects tags, ids, links, tables and open chips, and checks that elements are closed."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.open, self.chips = [], [], [], [], []
        self.tables = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src", "action") if name in values]
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([])
        if tag not in self.VOID:
            self.open.append((tag, values))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag
        if tag == "caption":
            self.tables.setdefault(self.caption, []).append(self.rows)

    def handle_data(self, data):
        if not data.strip() or not self.open:
            return
        tag, values = self.open[-1]
        inside = {name for name, _ in self.open}
        if tag == "caption":
            self.caption = data
        elif "table" in inside and inside & {"td", "th"}:
            self.rows[-1][-1].append(" ".join(data.split()))
        if "chip" in values.get("class", ""):
            self.chips.append((values["class"], data))

    def table(self, caption, number=0):
        """The cells of a table below its heading, each as a list of texts."""
        return self.tables[caption][number][1:]


def render(found):
    pictures = [Picture(plot, '<svg viewBox="0 0 9 9"></svg>') for plot in list_plots(found)]
    return render_page(found, pictures)


def shown(number, digits=2, sign="+"):
    return f"{number:{sign}.{digits}f}".replace("-", "−")


@pytest.fixture(scope="module")
def found():
    return evidence(planned=range(7), missing=12)


@pytest.fixture(scope="module")
def page(found):
    return Page(render(found))


def test_every_claim_has_its_verdict_in_words_and_colour(found, page):
    verdicts = [finding.verdict for finding in found.findings]
    assert set(verdicts) == {"holds", "does not hold", "cannot tell"}
    rows = page.table("Claims and verdicts")
    assert [(row[0], row[2]) for row in rows] == [
        ([finding.claim.name], [finding.verdict]) for finding in found.findings
    ]
    assert {text: name for name, text in page.chips} == {
        "holds": "chip holds",
        "does not hold": "chip does-not-hold",
        "cannot tell": "chip cannot-tell",
    }


def test_summary_tells_effect_and_what_was_run(found, page):
    rows = {row[0][0]: row for row in page.table("Claims and verdicts")}
    (question,) = found.findings[2].questions
    low, high = shown(question.interval[0]), shown(question.interval[1])
    assert rows["C3"][3] == [f"{question.contrast.name}: {shown(question.mean)} points"
                             f" [{low}, {high}]"]  # fmt: skip
    headline, *effects = rows["C2"][3]
    assert headline == "4 of 6 questions hold (needed: 3); shown not to: 2, open: 0"
    assert [effect.partition(":")[0] for effect in effects] == [
        f"{effect.contrast.name}, {effect.task}" for effect in found.findings[1].questions
    ]
    assert rows["C2"][4] == ["4 configurations × 3 tasks × 7 seeds, 1 task left out, 12 missing"]
    assert rows["C9"][4] == ["step time of 2 × 3 repeats, 12 missing"]


def test_effects_are_those_of_the_values(page):
    rows = {(row[0][0], row[1][0]): row for row in page.table("Effects", 0)}
    values = measure()
    by_task = {
        task: np.array([values[task, "rank16", "metric"][seed] - values[task, "rank64", "metric"]
                        [seed] for seed in range(6)])
        for task in TASKS
    }  # fmt: skip
    effects = {"mean over tasks": sum(by_task[task] for task in COUNTED) / 2, **by_task}
    for place, column in effects.items():
        ends = stats.t.interval(0.95, 5, column.mean(), stats.sem(column))
        row = rows["rank 16 − rank 64", place]
        assert row[2] == [shown(column.mean())]
        assert row[3] == [f"[{shown(ends[0])}, {shown(ends[1])}]"]
        assert row[4] == ["left out" if place == "cola" else "holds"]
        assert row[5] == ["6"]
        assert row[6:8] == [["above 0"], ["0.5 points"]]
    p_holds = stats.ttest_1samp(effects["mean over tasks"], 0, alternative="greater").pvalue
    assert p_holds < 0.001
    assert rows["rank 16 − rank 64", "mean over tasks"][8] == ["< 0.001"]


def test_grid_shows_spread_and_difference_to_lora(page):
    rows = {row[0][0]: row[1:] for row in page.table("Positions and patterns")}
    values = measure()
    mean = {
        name: np.mean(
            [[values[task, name, "metric"][seed] for seed in range(6)] for task in COUNTED], axis=0
        )
        for name in ("lora", "dropkey-span")
    }
    gain = mean["dropkey-span"] - mean["lora"]
    ends = stats.t.interval(0.95, 5, gain.mean(), stats.sem(gain))
    spread = f"{mean['dropkey-span'].mean():.2f} ± {mean['dropkey-span'].std(ddof=1):.2f}"
    difference = f"{shown(gain.mean())} [{shown(ends[0])}, {shown(ends[1])}]"
    assert rows["attention logits"][2] == [spread, difference]
    assert rows["feed-forward output"][2] == ["\u2013"]


@pytest.mark.parametrize(("column", "name", "digits"), [(0, "metric", 2), (2, "loss", 4)])
def test_all_measures_are_shown_whatever_is_asked_of_them(page, column, name, digits):
    values = measure()
    rows = {row[0][0]: row[1:] for row in page.table("All measures")}
    assert all(len(cells) == 3 for cells in rows.values())  # no time of steps
    lora, ours = (
        np.mean(
            [[values[task, configuration, name][s] for s in range(6)] for task in COUNTED], axis=0
        )
        for configuration in ("lora", "rank16")
    )
    gain = ours - lora
    interval = stats.t.interval(0.95, 5, gain.mean(), stats.sem(gain))
    low, mean, high = (shown(each, digits) for each in (interval[0], gain.mean(), interval[1]))
    spread = f"{ours.mean():.{digits}f} ± {ours.std(ddof=1):.{digits}f}"
    assert rows["rank16"][column] == [spread, f"{mean} [{low}, {high}]"]
    assert len(rows["lora"][column]) == 1


def test_tasks_that_do_not_count_have_their_reason(found, page):
    rows = {row[0][0]: row for row in page.table("Tasks")}
    assert rows["headlines"][4] == ["yes"]
    assert rows["cola"][2] == ["50"]
    assert rows["cola"][4] == [found.findings[0].left_out["cola"]]


def test_step_times_are_ratios(found, page):
    (table,) = page.tables["Time of a training step relative to the baseline's, side by side"]
    times = list(found.values["sst2", "hiddenkey", "step time"].values())
    mean = f"{stats.gmean(times):.2f}× ± {np.std(times, ddof=1):.2f}× (3)"
    assert {row[0][0]: row[2] for row in table[1:]}["hiddenkey"] == [mean]
    rows = {(row[0][0], row[1][0]): row for row in page.tables["Effects"][5][1:]}
    over = rows["hiddenkey, step time", "mean over tasks"]
    assert over[7] == ["1.30× to 1.70×"]
    assert over[4] == over[3], "tasks that hardly differ: the wider interval is the seeds' own"
    assert rows["dropkey, step time", "cola"][4:6] == [["\u2013"], ["holds"]], "no floor for times"


def test_chosen_settings_and_all_that_were_tried(page):
    rows = page.table("Chosen settings")
    assert [cell for row in rows[:2] for cell in row] == [
        ["headlines"], ["lora"], ["0.002"], ["\u2013"], ["0.820"], ["4"],
        ["headlines"], ["dropkey"], ["0.001"], ["0.1"], ["0.812"], ["8"],
    ]  # fmt: skip
    (table,) = page.tables["All settings that were tried"]
    assert [cell[0] for cell in table[0]][3:] == ["without a rate", "rate 0.1", "rate 0.2"]
    lines = [[cell[0] for cell in row[2:]] for row in table[3:5]]
    assert lines == [["0.001", "\u2013", "0.812", "0.800"], ["0.002", "\u2013", "0.795", "0.780"]]


def test_settings_are_in_the_scales_order_and_without_exponents(found):
    turned = dataclasses.replace(found, chosen=found.chosen[::-1])
    assert render(turned) == render(found)
    small = dataclasses.replace(
        found.chosen[0], setting=Setting(5e-5, None), scores={Setting(5e-5, None): 0.8}
    )
    page = Page(render(dataclasses.replace(found, chosen=(small,))))
    assert page.table("Chosen settings")[0][2] == ["0.00005"]


def test_rule_margins_and_power_are_told_before_the_claims(found):
    text = re.sub(r"\s+", " ", render(found))
    claim = text.index('id="claim-1"')
    for words in (
        "Here every configuration has 7 seeds.",
        "0.5 points (C1); 1 point (C1, C2, C3, C4, C5)",
        "vary by 0.80 percentage points",
        "the demonstration&#39;s ten runs",
    ):
        assert 0 < text.index(words) < claim
    assert Page(f"<p>{RULE.split('.')[0]}</p>").open == []
    assert RULE.split(",")[0] in text


def test_what_is_missing_is_said_on_top(found):
    text = render(found)
    caution = text.index("Provisional: runs or measurements of the plan")
    assert caution < text.index('id="summary"')
    assert "C1 12, C2 12" in text
    assert "Provisional" not in render(evidence())


def test_a_page_without_runs_says_so():
    page = render(evidence(values={}))
    text = re.sub(r"\s+", " ", page)
    assert "No run has finished yet" in text
    assert "No setting has been chosen yet." in text
    assert "No run yet." in text
    summary = Page(page).table("Claims and verdicts")
    assert [row[3] for row in summary] == [["no value yet"]] * len(summary)
    assert "left out" not in text
    assert {verdict for _, verdict in Page(page).chips} == {"cannot tell"}


def test_one_seed_has_no_interval():
    page = Page(render(evidence(seeds=range(1), values=measure(range(1), repeats=1))))
    row = page.table("Effects")[0]
    assert row[3:6] == [["\u2013"], ["cannot tell"], ["1"]]
    rows = page.table("Positions and patterns")
    assert "±" not in rows[0][1][0]


def test_many_questions_are_cut_short_in_the_summary():
    second = claims()[1]
    more = [dataclasses.replace(asked, name=f"{asked.name}, again") for asked in second.contrasts]
    long = dataclasses.replace(second, contrasts=(*second.contrasts, *more))
    page = Page(render(evidence(chosen=(long,))))
    (row,) = page.table("Claims and verdicts")
    assert len(row[3]) == 7
    assert row[3][-1] == "and 7 more below"
    assert len(page.table("Effects")) == 18


def test_the_same_evidence_gives_the_same_page(found):
    assert render(found) == render(evidence(planned=range(7), missing=12))


def test_environments_and_command(found):
    both = render(evidence(environments=2))
    page = Page(both)
    runs = found.runs
    assert len(page.tables[f"Versions and machine of {runs} runs"]) == 2
    assert "hiddenkey claims --scale small --data GLUE_FOLDER" in both


def test_hostile_text_stays_text():
    plain = claims()[0]
    configurations = {
        name: dataclasses.replace(own, name=name) for name, own in plain.configurations.items()
    }
    contrast = Contrast(HOSTILE, {"rank16": 1, "rank64": -1}, "metric", "better", 0.5)
    pictures = tuple(dataclasses.replace(picture, title=HOSTILE) for picture in plain.pictures)
    hostile = Claim(HOSTILE, HOSTILE, HOSTILE, HOSTILE, configurations, (contrast,), "pooled", 1.0,
                    plain.tasks, pictures)  # fmt: skip
    shown = evidence(chosen=(hostile,))
    shown = dataclasses.replace(shown, command=HOSTILE, environments=(({HOSTILE: HOSTILE}, 1),))
    text = render(shown)
    page = Page(text)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7*7 }}" in text


def test_the_page_needs_no_network_and_runs_no_script(found, page):
    text = render(found)
    assert page.open == []
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(values["content"] for _, values in page.tags if values.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_ids_are_unique_and_links_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    labelled = {values["aria-labelledby"] for _, values in page.tags if "aria-labelledby" in values}
    assert labelled <= set(page.ids)


def test_a_choice_for_all_tasks_stands_once():
    found = evidence()
    choices = {
        name: dataclasses.replace(own, scope="all tasks")
        for name, own in found.scale.choices.items()
    }
    scale = dataclasses.replace(found.scale, choices=choices)
    together = dataclasses.replace(found, scale=scale)
    for grid, rows in ((chosen_grid, 2), (scores_grid, None)):
        shown = [[cell.text for cell in row] for row in grid(together).rows]
        assert {row[0] for row in shown} == {"all tasks"}
        assert {row[1] for row in shown} == {"lora", "dropkey"}
        assert rows is None or len(shown) == rows
        assert len({row[0].text for row in grid(found).rows}) > 1
