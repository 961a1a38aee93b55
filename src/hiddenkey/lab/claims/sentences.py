"""A finding in plain words: what was seen, what follows, and what is missing."""

from __future__ import annotations

from hiddenkey.lab.claims.findings import Effect, Finding
from hiddenkey.lab.claims.plan import COST
from hiddenkey.lab.claims.rule import LEAST, LEVEL
from hiddenkey.lab.claims.wording import effect_text, margin
from hiddenkey.lab.present.words import count, listing, probability


def sentences(finding: Finding) -> tuple[str, ...]:
    """Say what a finding rests on, one thing to know in each."""
    return (
        *([_tally(finding)] if len(finding.questions) != 1 else []),
        *(_question(question) for question in finding.questions),
        *(f"{task} does not count: {reason}." for task, reason in finding.left_out.items()),
        *([_provisional(finding.missing)] if finding.missing else []),
    )


def _tally(finding: Finding) -> str:
    if not finding.questions:
        return "No task counts yet, so nothing can be told."
    verdicts = [question.verdict for question in finding.questions]
    return (
        f"{finding.needed} of {len(verdicts)} questions must hold; shown to hold:"
        f" {verdicts.count('holds')}, shown not to: {verdicts.count('does not hold')}, open:"
        f" {verdicts.count('cannot tell')}."
        f" Together: {finding.verdict} (p {probability(finding.p_holds)} for the claim,"
        f" p {probability(finding.p_fails)} against it; {LEVEL:g} decides)."
    )


def _provisional(missing: int) -> str:
    are = "is" if missing == 1 else "are"
    return f"Provisional: {count(missing, 'run')} of the plan {are} missing."


def _question(found: Effect) -> str:
    name = found.contrast.name
    if found.mean is None:
        return f"{name}: no seed has all the values that it takes, so nothing can be told."
    where = (
        f"mean of {listing(found.tasks)}" if len(found.tasks) > 1 else found.task or found.tasks[0]
    )
    repeats = count(len(found.values), "repeat" if found.contrast.measure == COST else "seed")
    return f"{name}: {effect_text(found)} ({where}; {repeats}): {found.verdict}; {_reason(found)}."


def _reason(found: Effect) -> str:
    """Say what the values exclude, or why they exclude nothing."""
    if len(found.values) < LEAST:
        return f"fewer than {LEAST} show nothing"
    if found.low == found.high and found.verdict == "cannot tell":
        return "all of them are equal, and so few equal values show too little"
    match found.contrast.expect:
        case "better":
            return _one_sided(found, above=found.p_holds < LEVEL, small=found.p_fails < LEVEL)
        case "no better":
            return _one_sided(found, above=found.p_fails < LEVEL, small=found.p_holds < LEVEL)
        case "equal":
            return _equal(found)
        case "between":
            return _between(found)


def _one_sided(found: Effect, *, above: bool, small: bool) -> str:
    none, enough = found.contrast.no_effect, margin(found.contrast)
    if above and small:
        return f"above {none:g}, but by less than {enough}: real, but negligible"
    if above:
        return f"above {none:g}"
    if not small:
        return f"neither {none:g} nor a gain of {enough} is excluded"
    if found.high is not None and found.high < none:
        return f"below {none:g}"
    return f"a gain of {enough} is excluded"


def _equal(found: Effect) -> str:
    none, enough = found.contrast.no_effect, margin(found.contrast)
    within, differs = found.p_holds < LEVEL, found.p_fails < LEVEL
    if within and differs:
        return f"not {none:g}, but off by less than {enough}: real, but negligible"
    if within:
        return f"less than {enough} from {none:g}"
    if differs:
        return f"not {none:g}"
    return f"neither {none:g} nor a difference of {enough} is excluded"


def _between(found: Effect) -> str:
    if found.p_holds < LEVEL:
        return "within the expected range"
    if found.p_fails < LEVEL:
        return "outside of the expected range"
    return "neither a value within the expected range nor one outside is excluded"
