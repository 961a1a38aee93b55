"""A finding, and all findings together, in plain words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.claims.effects import ONE_SIDED, Effect
from hiddenkey.lab.claims.findings import Evidence, Ruling, design
from hiddenkey.lab.claims.plan import COST, Scale
from hiddenkey.lab.claims.wording import bounds, effect_text, margin, size
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import Design
from hiddenkey.lab.present.words import count, listing, number, probability

RULE: Final = (
    "A question is a difference between configurations with the same seed. Seeds are what is"
    f" repeated: with fewer than {FEWEST} nothing is concluded. Each question has two t-tests,"
    f" both at {100 * ONE_SIDED:g} %. “Better” holds if the effect is shown to be above 0. It does"
    " not hold if the effect is shown to be below the margin, the smallest effect that would"
    " matter."
    " “No better” holds below the margin and does not hold above 0. “Equal” holds if the effect"
    " is shown to be less than the margin from 0, and does not hold if it is shown to differ from"
    " 0. “Between” holds inside of the expected range and does not hold outside. So verdicts go"
    " with the 95 % interval, but where a question can fail in two directions: there each has"
    f" half of the {100 * ONE_SIDED:g} %. An effect that is shown to be above 0 and below the"
    " margin answers both tests: the verdict is “holds”, and the text says that the effect is too"
    " small to matter."
    "\n\n"
    f"A mean over {FEWEST} tasks or more has a second 95 % interval, over tasks and seeds: it is"
    " Student's t on the tasks' own means, and what to expect of a further task like these. The"
    " verdict goes by the first interval, for it is about the tasks of the plan."
    "\n\n"
    "A claim says how many of its questions must hold. It holds if so many are shown to hold. It"
    " does not hold if so many are shown not to that the rest would be too few. Both are decided"
    " by the partial conjunction test in Bonferroni's form (Benjamini and Heller 2008). It"
    " corrects for looking at several questions and allows them to share runs. In all other cases"
    " the verdict is “cannot tell”: the evidence is inconclusive, and the text says why and how"
    " large an effect so many seeds could show. The verdict is about the tasks of the plan; a"
    " task that plain LoRA does not learn does not count. Claims are judged one by one: of forty"
    " verdicts of a kind one may be chance."
)
"""The rule in words, for the page."""

READING: Final = (
    "In the tables of effects, the verdict on a claim rests on the bold lines. Where there are"
    " none, it rests on each task that counts. A small first p-value speaks for the claim: so clear"
    " an effect would be rare if it were not as claimed. A small second one speaks against it."
)
"""How to read the tables of effects."""


def sentences(finding: Ruling) -> tuple[str, ...]:
    """Say what a finding rests on, one thing to know in each."""
    said = [_tally(finding)] if len(finding.questions) != 1 else []
    said += map(_question, finding.questions)
    said += (f"{task} does not count: {reason}." for task, reason in finding.left_out.items())
    if finding.missing:
        verb = "is" if finding.missing == 1 else "are"
        said.append(f"Provisional: {count(finding.missing, 'run')} of the plan {verb} missing.")
    return tuple(said)


def run_text(finding: Ruling, scale: Scale) -> str:
    """Say in one line what a claim's plan runs, and how much of it is missing."""
    claim, parts = finding.claim, []
    if claim.trained:
        parts.append(
            f"{count(len(claim.trained), 'configuration')} × {count(len(claim.tasks), 'task')} ×"
            f" {count(len(scale.seeds), 'seed')}"
        )
    if claim.timed:
        parts.append(f"step time of {len(claim.timed)} × {count(scale.repeats, 'repeat')}")
    if finding.left_out and any(effect.mean is not None for effect in finding.by_task):
        parts.append(f"{count(len(finding.left_out), 'task')} left out")
    if finding.missing:
        parts.append(f"{finding.missing} missing")
    return ", ".join(parts)


def cautions(evidence: Evidence) -> tuple[str, ...]:
    """Return what a reader must know before the verdicts; nothing if all is there."""
    if not evidence.runs:
        return ("No run has finished yet, so nothing is known of any claim.",)
    missing = [f"{f.claim.name} {f.missing}" for f in evidence.findings if f.missing]
    if not missing:
        return ()
    return (
        "Provisional: runs or measurements of the plan are not there yet, or failed:"
        f" {', '.join(missing)} (claims share runs). Effects and verdicts may change.",
    )


def when(evidence: Evidence) -> str:
    """Say how many runs there are, and from when."""
    if not evidence.runs:
        return "No run yet."
    started, ended = (t.replace("T", " ")[:16] for t in (evidence.started, evidence.ended))
    end = ended.removeprefix(f"{started[:10]} ")  # the day once, if it is the same
    return f"{count(evidence.runs, 'run')}, from {started} to {end} UTC."


def plan_words(evidence: Evidence) -> tuple[str, ...]:
    """Say how large the plan is, its margins, what it could show, and how to read the tables."""
    seeds = count(len(evidence.scale.seeds), "seed")
    return (
        f"Here every configuration has {seeds}.{_margins(evidence)}",
        *_power(evidence),
        READING,
    )


def _tally(finding: Ruling) -> str:
    if not finding.questions:
        return "No task counts yet, so nothing is known."
    verdicts = [question.verdict for question in finding.questions]
    return (
        f"{finding.needed} of {len(verdicts)} questions must hold; shown to hold:"
        f" {verdicts.count('holds')}, shown not to: {verdicts.count('does not hold')}, open:"
        f" {verdicts.count('cannot tell')}."
        f" Together: {finding.verdict} (p {probability(finding.p_holds)} for the claim,"
        f" p {probability(finding.p_fails)} against it; {ONE_SIDED:g} decides)."
    )


def _question(found: Effect) -> str:
    name = found.contrast.name
    if found.mean is None:
        return f"{name}: no seed has all the values that it takes, so nothing is known."
    where = (
        f"mean of {listing(found.tasks)}" if len(found.tasks) > 1 else found.task or found.tasks[0]
    )
    start = f"{name}: {effect_text(found)} ({where}; {_repeats(found)}{_over_tasks(found)})"
    start += f": {found.verdict}"
    if found.verdict == "cannot tell":
        return f"{start}: inconclusive, {_open(found)}.{_could_show(found)}"
    return f"{start}; {_shown(found)}."


def _over_tasks(found: Effect) -> str:
    ends = found.interval_over_tasks
    return "" if ends is None else f"; over tasks as well {bounds(ends, found.contrast.measure)}"


def _repeats(found: Effect) -> str:
    return count(len(found.values), "repeat" if found.contrast.measure == COST else "seed")


def _open(found: Effect) -> str:
    """Say why the values exclude nothing."""
    none, enough = found.contrast.no_effect, margin(found.contrast)
    if len(found.values) < FEWEST:
        return f"since fewer than {FEWEST} show nothing"
    if not found.estimate.deviation:
        return "since so few equal values show nothing"
    match found.contrast.expect:
        case "better" | "no better":
            return f"neither {none:g} nor a gain of {enough} is excluded"
        case "equal":
            return f"neither {none:g} nor a difference of {enough} is excluded"
        case "between":
            return "neither a value within the expected range nor one outside is excluded"


def _could_show(found: Effect) -> str:
    """Say how large an effect so many seeds could show, and how many would show the margin."""
    contrast, deviation = found.contrast, found.estimate.deviation
    if not deviation or len(found.values) < FEWEST or contrast.expect == "between":
        return ""
    planned = design(contrast, Design(len(found.values), deviation))
    least = contrast.shown(planned.detectable()) - contrast.no_effect
    shown = size(float(f"{least:.2g}"), contrast.measure)
    text = f" With this scatter {_repeats(found)} have an 80 % chance to show {shown}"
    threshold = abs(math.log1p(contrast.margin)) if contrast.measure == COST else contrast.margin
    needed = planned.pairs_needed(threshold) if threshold else None
    if needed is None or needed <= len(found.values):
        return f"{text}."
    return f"{text}; {margin(contrast)} takes {needed}."


def _shown(found: Effect) -> str:
    """Say what the values exclude."""
    none, enough, expect = found.contrast.no_effect, margin(found.contrast), found.contrast.expect
    holds, fails = found.p_holds < ONE_SIDED, found.p_fails < ONE_SIDED
    if expect == "between":
        return "within the expected range" if holds else "outside of the expected range"
    if expect == "equal":
        if holds and fails:
            return f"not {none:g}, but off by less than {enough}: real, but negligible"
        return f"less than {enough} from {none:g}" if holds else f"not {none:g}"
    above, small = (holds, fails) if expect == "better" else (fails, holds)
    if above:
        negligible = f", but by less than {enough}: real, but negligible" if small else ""
        return f"above {none:g}{negligible}"
    below = found.interval is not None and found.interval[1] < none
    return f"below {none:g}" if below else f"a gain of {enough} is excluded"


def _margins(evidence: Evidence) -> str:
    claims: dict[str, dict[str, None]] = defaultdict(dict)
    for finding in evidence.findings:
        for contrast in finding.claim.contrasts:
            if contrast.expect != "between":
                claims[margin(contrast)][finding.claim.name] = None
    if not claims:
        return ""
    parts = (f"{amount} ({', '.join(names)})" for amount, names in claims.items())
    return f" Margins, the smallest effects that would matter: {'; '.join(parts)}."


def _power(evidence: Evidence) -> tuple[str, ...]:
    known = [power for finding in evidence.findings for power in finding.power]
    if not known:
        return ()
    scatter = evidence.scale.power
    return (
        "Before the runs, the difference of two configurations on one task and with the same seed"
        f" was taken to vary by {number(scatter.deviation, 2)} percentage points (standard"
        f" deviation; {scatter.source}). A question's 95 % interval was then expected to reach"
        f" {_range([power.half_width for power in known], 2)} points to each side. An effect as"
        f" large as its margin had a chance of {_range([100 * p.detects for p in known], 0)} % to"
        " be distinguished from nothing. A method without any effect had a chance of"
        f" {_range([100 * p.excludes for p in known], 0)} % to be distinguished from the margin.",
    )


def _range(values: Sequence[float], digits: int) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "any number of"
    low, high = number(min(finite), digits), number(max(finite), digits)
    return low if low == high else f"{low} to {high}"
