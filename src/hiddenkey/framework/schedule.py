"""How the rates of an attached method change in the course of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hiddenkey.errors import ConfigError, is_one_of, not_one_of
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.site import Site

DECAYS = ("constant", "linear", "cosine")
DEPTHS = ("flat", "growing", "falling")


@dataclass(frozen=True)
class RateSchedule:
    """Factors of the configured rates, by step and by layer.

    A pure function of the step: nothing has to be saved, and a resumed run goes on exactly. In a
    loop of one's own::

        for step, batch in enumerate(batches):
            attachment.set_rates(schedule.rates(attachment.sites, step, steps))

    With Trainer: ``watch(trainer, attachment, schedule)``.

    Raises:
        ConfigError: on construction, with every fault.

    Attributes:
        warmup: steps (a whole number) or share of all steps (below 1) in which the rate grows
            linearly from 0, which it has in the first step, to the configured one.
        decay: what follows: ``constant``, or down to ``floor`` at the end, ``linear`` or along
            half a ``cosine``.
        floor: factor of the rate at the end of a decay, in [0, 1].
        end: share of the training after which the decay has come to ``floor``, in (0, 1].
        depth: factor by layer: ``flat`` is 1; ``growing`` is (l + 1)/L in layer l of L, so that
            the last layer has the whole rate; ``falling`` the other way round. L counts up to the
            last layer that has a site.
        positions: the positions that follow the schedule; ``None`` means all. The others keep
            their rates.
    """

    warmup: int | float = 0
    decay: str = "constant"
    floor: float = 0.0
    end: float = 1.0
    depth: str = "flat"
    positions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        positions: object = self.positions
        if isinstance(positions, list):
            object.__setattr__(self, "positions", tuple(positions))
        if faults := _faults(self):
            raise ConfigError(faults)

    def described(self) -> str:
        """Say in a line what happens to the rates."""
        what = " and ".join(self.positions or ()) or "all positions"
        words = [f"warm-up {self.warmup:g}"] if self.warmup else []
        if self.decay != "constant":
            whole = f" to {self.floor:g} of it" if self.floor else ""
            until = f" over the first {self.end:.0%} of the steps" if self.end < 1 else ""
            words.append(f"{self.decay} decay{whole}{until}")
        words += [f"{self.depth} over the layers"] if self.depth != "flat" else []
        return f"rate of {what}: {', '.join(words) or 'constant'}"

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of a step, in [0, 1].

        Args:
            step: optimiser steps done; the first pass has 0.
            steps: of the whole training; below 1 where nobody knows.

        Raises:
            ConfigError: if the factor depends on a number of steps that nobody knows.
        """
        by_share = isinstance(self.warmup, float) and self.warmup > 0
        if steps < 1 and (self.decay != "constant" or by_share):
            raise ConfigError(
                f"a schedule ({self.described()}) needs the number of steps of the whole training,"
                f" got {steps}; limit the training by steps (max_steps)"
            )
        warmup = self.warmup if isinstance(self.warmup, int) else round(self.warmup * steps)
        if step < warmup:
            return step / warmup
        if self.decay == "constant":
            return 1.0
        last = min(steps - 1, math.ceil(self.end * steps))
        done = min(1.0, (step - warmup) / max(1, last - warmup))
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.floor + (1 - self.floor) * left

    def rates(self, sites: Iterable[Site], step: int, steps: int) -> dict[str, float]:
        """Return the rate of each site in a step, for :meth:`hiddenkey.Attachment.set_rates`.

        Args:
            sites: ``attachment.sites``, with the configured rates.
            step: optimiser steps done.
            steps: of the whole training.

        Raises:
            ConfigError: if a position of the schedule has no site, or the number of steps is needed
                and not known.
        """
        sites = tuple(sites)
        present = {site.position: None for site in sites}
        for position in self.positions or ():
            if position not in present:
                raise ConfigError(
                    f"schedule.positions must be among those that the attachment acts on,"
                    f" {', '.join(present)}, got {position!r}; leave it out"
                )
        sites = tuple(s for s in sites if self.positions is None or s.position in self.positions)
        layers = 1 + max((site.layer for site in sites if site.layer is not None), default=0)
        factor = self.factor(step, steps)
        return {site.key: factor * self._share(site, layers) * site.rate for site in sites}

    def _share(self, site: Site, layers: int) -> float:
        if self.depth == "flat" or site.layer is None:
            return 1.0
        return (site.layer + 1 if self.depth == "growing" else layers - site.layer) / layers


def by_position(rates: Mapping[str, float], sites: Iterable[Site]) -> dict[str, float]:
    """Return the mean rate of each position, over its layers."""
    found: dict[str, list[float]] = {}
    for site in sites:
        found.setdefault(site.position, []).append(rates[site.key])
    return {position: sum(each) / len(each) for position, each in found.items()}


def _faults(schedule: RateSchedule) -> list[str]:
    faults = [
        not_one_of(f"schedule.{name}", getattr(schedule, name), allowed)
        for name, allowed in (("decay", DECAYS), ("depth", DEPTHS))
        if not is_one_of(getattr(schedule, name), allowed)
    ]
    warmup = schedule.warmup
    if isinstance(warmup, bool) or not (
        (isinstance(warmup, int) and warmup >= 0) or (isinstance(warmup, float) and 0 <= warmup < 1)
    ):
        faults.append(
            "schedule.warmup must be a whole number of steps or a share of them in [0, 1), got"
            f" {warmup!r}; 0.1 is a tenth of the training"
        )
    floor = schedule.floor
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
        faults.append(f"schedule.floor must be in [0, 1], got {floor!r}; 0 decays to no noise")
    end = schedule.end
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end <= 1:
        faults.append(f"schedule.end must be in (0, 1], got {end!r}; 1 decays to the last step")
    positions: object = schedule.positions
    if not isinstance(positions, tuple | None):
        return [*faults, f"schedule.positions must be a list or None, got {positions!r}"]
    return faults + [
        not_one_of("schedule.positions", position, POSITIONS)
        for position in schedule.positions or ()
        if not is_one_of(position, POSITIONS)
    ]
