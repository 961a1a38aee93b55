"""Checks of a model in training: noise acts at every site, in the right measure, and is sound."""

from __future__ import annotations

import math
import statistics

from torch import Tensor

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.framework.config import Drop
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.site import Site
from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import CheckError, fail_if, spread, spread_of_choices
from hiddenkey.testing.passes import (
    Batch,
    Pass,
    Tensors,
    differences,
    without_dropout_modules,
)

# High enough that a site of a tiny model is very unlikely to draw the same mask twice.
_RATE_TO_SEE = 0.5
_SEEDS_TO_SEE = 24  # a whole update falls or stays: seeds may well agree
_SEEDS_TO_REACH = 60  # at CoTo's first rate, 0.9, a layer's update is there in one of ten
_SHARE_PASSES = 16
_CHOICE_PASSES = 96  # of a drop of all or nothing, whose share in a pass is 0 or 1


def check_noise(examination: Examination) -> str:
    """Each site alone makes training outputs differ between seeds, so also from evaluation.

    The rates of all other sites are set to zero, so that a site which draws a mask and does nothing
    with it shows. A module on which no output depends may be silent.
    """
    silent: list[Site] = []
    counted = 0
    for drop in examination.config.drops:
        if drop.rate == 0:
            continue
        with (
            without_dropout_modules(examination.model),
            examination.attached(examination.at_rate(_RATE_TO_SEE, [drop])) as attachment,
        ):
            silent += [
                site for site in attachment.sites if _is_silent(examination, attachment, site)
            ]
            counted += len(attachment.sites)
    faults = [
        f"{site.position} at {site.name} gives equal outputs for {_SEEDS_TO_SEE} seeds"
        for site in silent
        if examination.depends_on(site.name)
    ]
    fail_if(faults)
    if not counted:
        return "the method has no noise"
    idle = "".join(f"; no output depends on {site.name}" for site in silent)
    return f"each of {counted - len(silent)} sites acts by itself{idle}"


def _is_silent(examination: Examination, attachment: Attachment, site: Site) -> bool:
    """Whether outputs are equal for all seeds while the rates of other sites are zero."""
    attachment.set_rates({s.key: _RATE_TO_SEE * (s.key == site.key) for s in attachment.sites})
    first = examination.runner.forward(examination.batch, 0)
    return not any(
        differences(first, examination.runner.forward(examination.batch, seed))
        for seed in range(1, _SEEDS_TO_SEE)
    )


def check_gradients(examination: Examination) -> str:
    """Gradients are finite, and reach every parameter that they reach without the attachment."""
    expected = next(iter(examination.plain_passes.values())).reached
    reached: set[str] = set()
    for seed in range(_SEEDS_TO_REACH):  # an expert, say, is not chosen in every pass
        with examination.attached():
            found = examination.runner.train(examination.batch, seed)
        fail_if([f"the gradient of {name} is not finite" for name in _not_finite(found.gradients)])
        reached |= found.reached
        if reached >= expected:
            break
    fail_if([f"no gradient reaches {name}" for name in sorted(expected - reached)])
    return f"all {len(expected)} parameters are reached"


def check_padding(examination: Examination) -> str:
    """Loss, gradients and the outputs of visible tokens are finite in every batch."""
    faults = []
    for name, batch in examination.batches.items():
        plain = _faults_of(examination.plain_passes[name], batch)
        with examination.attached():
            for seed in range(2):
                found = _faults_of(examination.runner.train(batch, seed), batch)
                faults += [f"{name}: {what}" for what in found if what not in plain]
    fail_if(list(dict.fromkeys(faults)))
    return f"finite in {', '.join(examination.batches)}"


def check_seeds(examination: Examination) -> str:
    """Equal seeds give equal training passes, different seeds different ones."""
    with examination.attached():
        one, two = (examination.runner.train(examination.batch, seed=7) for _ in range(2))
        noisy = any(drop.rate > 0 for drop in examination.config.drops)
        others = (
            examination.runner.train(examination.batch, seed) for seed in range(_SEEDS_TO_REACH)
        )
        is_alike = noisy and not any(differences(one.outputs, each.outputs) for each in others)
    apart = one.apart(two)
    if apart > examination.tolerance:
        raise CheckError(f"two passes with the same seed are {apart:.1e} apart (relative)")
    if is_alike:
        raise CheckError(f"{_SEEDS_TO_REACH} different seeds give equal outputs")
    return "equal seeds, equal passes"


def check_shares(examination: Examination) -> str:
    """The observed drop rate of each site is the configured rate, as far as chance explains it."""
    drops = [drop for drop in examination.config.drops if drop.rate > 0]
    if not drops:
        return "the method has no noise"
    with examination.attached() as attachment:
        attachment.shares()
        passes = []
        for seed in range(_CHOICE_PASSES if any(map(_is_choice, drops)) else _SHARE_PASSES):
            examination.runner.forward(examination.batch, seed)
            passes.append(attachment.shares())
    by_position = {drop.position: drop for drop in drops}
    faults = []
    for site in attachment.sites:
        if drop := by_position.get(site.position):
            own = [shares[site.key] for shares in passes]
            faults += _share_faults(site, drop, own, examination)
    fail_if(faults)
    means = {
        position: statistics.fmean(
            shares[s.key] for shares in passes for s in attachment.sites if s.position == position
        )
        for position in by_position
    }
    return ", ".join(f"{position} {share:.3f}" for position, share in means.items())


def _is_choice(drop: Drop) -> bool:
    return drop.pattern == "adapter"


def _share_faults(
    site: Site, drop: Drop, shares: list[float], examination: Examination
) -> list[str]:
    """Hold the observed drop rates of several passes against the rate.

    In attention the first key may be protected, and queries that lost everything are given it back:
    there the observed rate may be lower, down to half the rate on sequences as short as these.
    """
    if any(math.isnan(share) for share in shares):
        return [f"{site.key} at {site.name} was not reached"]
    if _is_choice(drop):
        chance = spread_of_choices(drop.rate, len(shares))
    else:
        chance = spread(shares) + _rounding(drop, examination.batch)
    lowest = drop.rate * (0.5 if POSITIONS[drop.position].attention else 1.0) - chance
    mean = statistics.fmean(shares)
    if lowest <= mean <= drop.rate + chance:
        return []
    return [
        f"{site.key}: {mean:.3f} of the units are dropped, {lowest:.3f} to"
        f" {drop.rate + chance:.3f} are expected at rate {drop.rate:g}"
    ]


def _rounding(drop: Drop, batch: Batch) -> float:
    """Return by how much whole runs of tokens can miss the rate."""
    if drop.pattern != "span":
        return 1e-6
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return 0.5 / max(1, int(mask.sum(-1).min()))
    return 0.5 / ids.shape[1] if isinstance(ids, Tensor) and ids.dim() == 2 else 0.5


def _not_finite(tensors: Tensors) -> list[str]:
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]


def _faults_of(found: Pass, batch: Batch) -> list[str]:
    """Say what of a training pass is not finite, apart from what padding tokens show."""
    mask = batch.get("attention_mask")
    visible = {
        name: tensor[mask.bool()]
        if isinstance(mask, Tensor) and tensor.shape[: mask.dim()] == mask.shape
        else tensor
        for name, tensor in found.outputs.items()
        if tensor.is_floating_point()
    }
    return [f"{name} is not finite" for name in _not_finite(visible)] + [
        f"the gradient of {name} is not finite" for name in _not_finite(found.gradients)
    ]
