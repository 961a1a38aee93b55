"""The rule of verdict: fixed before the runs, the same for a question and for a claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from hiddenkey.lab.evidence import inference
from hiddenkey.lab.evidence.inference import FEWEST

Verdict = Literal["holds", "does not hold", "cannot tell"]

LEVEL: Final = inference.LEVEL / 2
"""Share of wrong verdicts of either kind that is accepted; a 95 % interval has it on each side."""

RULE: Final = (
    "A question is a difference between configurations with the same seed. Seeds are what is"
    f" repeated: with fewer than {FEWEST} nothing is concluded. Each question has two t-tests,"
    f" both at {100 * LEVEL:g} %. “Better” holds if the effect is shown to be above 0. It does not"
    " hold if the effect is shown to be below the margin, the smallest effect that would matter."
    " “No better” holds below the margin and does not hold above 0. “Equal” holds if the effect"
    " is shown to be less than the margin from 0, and does not hold if it is shown to differ from"
    " 0. “Between” holds inside of the expected range and does not hold outside. So verdicts go"
    " with the 95 % interval, but where a question can fail in two directions: there each has"
    f" half of the {100 * LEVEL:g} %. An effect that is shown to be above 0 and below the margin"
    " answers both tests: the verdict is “holds”, and the text says that the effect is too small"
    " to matter."
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

_ROUNDING: Final = 1e-9
"""What a share times a count may be above a whole number by rounding alone."""


class Judged:
    """What has a verdict: ``holds`` if both of its p-values are small."""

    @property
    def p_values(self) -> tuple[float, float]:
        """P-values of "it is not as claimed" and of "it is as claimed"."""
        raise NotImplementedError

    @property
    def p_holds(self) -> float:
        """P-value of "it is not as claimed"."""
        return self.p_values[0]

    @property
    def p_fails(self) -> float:
        """P-value of "it is as claimed"."""
        return self.p_values[1]

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        return decide(*self.p_values)


def decide(p_holds: float, p_fails: float) -> Verdict:
    """Return the verdict that two p-values give; ``holds`` if both are small."""
    if p_holds < LEVEL:
        return "holds"
    return "does not hold" if p_fails < LEVEL else "cannot tell"


def how_many(need: float, questions: int) -> int:
    """Return how many questions must hold: the share ``need`` of them, rounded up."""
    return math.ceil(need * questions - _ROUNDING)


def combine(p_holds: Sequence[float], p_fails: Sequence[float], need: int) -> tuple[float, float]:
    """Combine the p-values of a claim's questions.

    With m questions of which u must hold, "fewer than u hold" has

        p = (m − u + 1) · p_(u),

    where p_(u) is the u-th smallest of ``p_holds``. At most u − 1 of the questions hold if it is
    true, so one of at least m − u + 1 that do not must be among the u smallest: Bonferroni over
    these, whatever the dependence. "u or more hold" is the same with m − u + 1 in place of u: so
    many failures leave fewer than u. Benjamini and Heller, *Screening for Partial Conjunction
    Hypotheses*, Biometrics 64 (2008), 1215-1222.

    Args:
        p_holds: of each question, the p-value of "it does not hold".
        p_fails: of each question, the p-value of "it holds".
        need: how many must hold.

    Returns:
        Both p-values; 1 without questions.
    """
    if not p_holds:
        return 1.0, 1.0
    return _at_least(need, p_holds), _at_least(len(p_fails) - need + 1, p_fails)


def _at_least(few: int, p_values: Sequence[float]) -> float:
    """Return the p-value of "fewer than ``few`` of the null hypotheses are false"."""
    return min(1.0, (len(p_values) - few + 1) * sorted(p_values)[few - 1])
