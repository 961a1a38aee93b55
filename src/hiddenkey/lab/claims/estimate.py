"""How long the missing jobs take: a few timed steps of plain LoRA on each task, and ratios."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.outline import EvidenceOutline
from hiddenkey.lab.claims.plan import BASELINE
from hiddenkey.lab.compare.outline import steps
from hiddenkey.lab.compare.probe import Cost, measure, seconds_of_ratio
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import Run, options_from
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.jobs import State
from hiddenkey.lab.run.options import TrainOptions

_SECOND_PASS: Final = 1.5
"""A step with a consistency loss relative to one without (docs/BENCHMARKS.md)."""


@dataclass(frozen=True)
class Row:
    """A job that is left to do.

    Attributes:
        task: its task and model.
        what: ``choice`` of settings, ``run`` or ``step time``.
        seconds: estimated time.
    """

    task: str
    what: str
    seconds: float


def estimate(
    outline: EvidenceOutline, data: Data, states: Mapping[str, State], store: Plan
) -> list[Row]:
    """Return a row for each job that is left, measuring each task and model once."""
    import torch

    from hiddenkey.quiet import quiet

    quiet()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // store.workers))
    costs = _Costs(data)
    rows = []
    for job in outline.jobs({store.name: states})[store.name]:
        if job.key in states and states[job.key].done:
            continue
        if job.kind == "run":
            run = Run.from_dict(job.payload)
            what = "choice" if run.stage == "search" else "run"
            rows.append(Row(_name(run.options), what, costs.run(run.options)))
        else:
            options = options_from(job.payload["options"])
            rows.append(Row(_name(options), "step time", costs.timing(options)))
    rows += [
        Row(_name(run.options), "run", costs.run(run.options))
        for run in outline.unnamed({store.name: states})
    ]
    return rows


def _name(options: TrainOptions) -> str:
    return f"{options.task}, {options.model}"


class _Costs:
    def __init__(self, data: Data) -> None:
        self._data = data
        self._known: dict[tuple[str, str], Cost] = {}

    def run(self, options: TrainOptions) -> float:
        splits = self._data.splits(options)
        count = steps(options, len(splits.train))
        cost = dataclasses.replace(
            self._cost(options), step=self._cost(options).step * _factor(options)
        )
        return cost.of(options, count, len(splits.evaluation))

    def timing(self, options: TrainOptions) -> float:
        return 2 * _factor(options) * seconds_of_ratio(self._cost(options))

    def _cost(self, options: TrainOptions) -> Cost:
        key = options.task, options.model
        if key not in self._known:
            plain = TrainOptions(
                **{
                    **vars(options),
                    "method": BASELINE,
                    "also": (),
                    "rate": None,
                    "rates": {},
                    "consistency_weight": None,
                }
            )
            self._known[key] = measure(plain, self._data.prepare(plain))
        return self._known[key]


def _factor(options: TrainOptions) -> float:
    return 1.0 if methods()[options.method].config.consistency is None else _SECOND_PASS
