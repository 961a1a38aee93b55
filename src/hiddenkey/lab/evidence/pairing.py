"""Which of the baseline's arms an arm is compared with: the one whose settings are most alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hiddenkey.lab.evidence.arms import NO_SETTINGS, Run, explicit
from hiddenkey.lab.evidence.axes import Arm

_OF_METHOD: Final = ("method", "rate", "rates", "consistency_weight")


def settings_of(run: Run) -> dict[str, Any]:
    """Return all of a run's settings but those of its task, its seed and its dropout method."""
    left_out = {*NO_SETTINGS, *_OF_METHOD}
    options = explicit(run.record.options)
    return {name: value for name, value in options.items() if name not in left_out}


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the settings that are not the same, in order."""
    return tuple(sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)))


def nearest(run: Run, others: Sequence[Run]) -> Run | None:
    """Return the run of the same task, model, adapter and rank whose other settings differ least.

    Of several that differ as little it is one at the same dropout rate, if there is one.
    """
    alike = [other for other in others if _kind(other) == _kind(run)]
    own = settings_of(run)
    return min(
        alike,
        key=lambda other: (
            len(differing(own, settings_of(other))),
            other.arm.rate != run.arm.rate,
            other.arm.label,
        ),
        default=None,
    )


def _kind(run: Run) -> tuple[Any, ...]:
    """What is trained, and on what: runs that differ in it are never set against each other."""
    return run.task, run.arm.model, run.arm.rank, run.record.options.get("adapter", "lora")


def find_baselines(groups: Mapping[Arm, Sequence[Run]], baseline: str) -> dict[Arm, Arm | None]:
    """Return each arm's arm of the baseline; ``None`` for the baseline's own and where none fits.

    Args:
        groups: runs of one task by arm.
        baseline: name of the baseline's method.
    """
    plain = [runs[0] for arm, runs in groups.items() if arm.method == baseline]
    found = {arm: nearest(runs[0], plain) for arm, runs in groups.items()}
    return {
        arm: None if run is None or arm.method == baseline else run.arm
        for arm, run in found.items()
    }
