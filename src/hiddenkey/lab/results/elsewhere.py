"""The result of a run that was not trained here: what its evaluations say, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hiddenkey.lab.run.result import Result, Summary, summarise
from hiddenkey.lab.scores import lower_is_better

_UNMEASURED: Mapping[str, Any] = {
    "train_loss": None,
    "train_sample": {},
    "gap": {},
    "trainable_parameters": 0,
    "lora_parameters": 0,
    "total_parameters": 0,
    "peak_memory_mib": None,
    "peak_device_memory_mib": None,
}


def result_of_lines(
    lines: Sequence[Mapping[str, Any]], names: Iterable[str], *, lower: bool | None, **known: Any
) -> Result:
    """Return a result whose numbers, but for the known ones, nobody measured.

    Args:
        lines: the evaluations, in order; a number that is not finite is ``None``.
        names: of the metrics, without the loss.
        lower: whether less is better for the main metric; ``None``: as its name tells.
        known: the other fields of :class:`Result`, ``main_metric`` among them.
    """
    main = known["main_metric"]

    def smaller(name: str) -> bool:
        return lower_is_better(name) if lower is None or name != main else lower

    def summary(name: str) -> Summary:
        key = f"eval_{name}"
        given = [line for line in lines if key in line] if name == main else lines
        return summarise(given, key, smaller=smaller(name))

    unknown = Summary(best=None, best_step=int(lines[-1]["step"]), last=None)
    has_loss = any("eval_loss" in line for line in lines)
    return Result(
        **{
            **_UNMEASURED,
            "metrics": {name: summary(name) for name in names},
            "eval_loss": summarise(lines, "eval_loss", smaller=smaller("loss"))
            if has_loss
            else unknown,
            **known,
        }
    )
