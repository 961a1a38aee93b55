"""How long the runs of claims take: a few timed steps of plain LoRA on each task and model."""

from __future__ import annotations

import dataclasses
from typing import Final

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.plan import BASELINE
from hiddenkey.lab.compare.probe import Cost
from hiddenkey.lab.compare.survey import Costs
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.options import TrainOptions

_SECOND_PASS: Final = 1.5
"""A step with a consistency loss relative to one without (docs/BENCHMARKS.md)."""


class PlainCosts(Costs):
    """Estimates seconds of runs from plain LoRA's steps, since claims have too many methods.

    Args:
        data: the examples of the runs.
    """

    def __init__(self, data: Data) -> None:
        super().__init__(Plan(tasks=()), data)
        self._plain: dict[tuple[str, str], Cost] = {}

    def baseline(self, options: TrainOptions) -> TrainOptions:
        """Plain LoRA with the same settings."""
        return dataclasses.replace(
            options, method=BASELINE, also=(), rate=None, rates={}, consistency_weight=None
        )

    def cost(self, options: TrainOptions) -> Cost:
        """What a run costs; each task and model is measured once."""
        place = options.task, options.model
        if place not in self._plain:
            self._plain[place] = super().cost(self.baseline(options))
        plain = self._plain[place]
        has_loss = methods()[options.method].config.consistency is not None
        return dataclasses.replace(plain, step=plain.step * (_SECOND_PASS if has_loss else 1))
