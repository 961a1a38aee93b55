"""What a configuration does on a model, in a line for each drop and one for the loss."""

from __future__ import annotations

from collections.abc import Sequence

from hiddenkey.anatomy import Gap
from hiddenkey.framework.compensation import SMOOTHING
from hiddenkey.framework.config import Drop
from hiddenkey.framework.consistency import Consistency
from hiddenkey.framework.site import Site
from hiddenkey.step.hooks import StepHooks
from hiddenkey.step.temporal import TemporalLoss


def described(drop: Drop, sites: Sequence[Site], gaps: Sequence[Gap], layer_count: int) -> str:
    """Return where a drop acts, and how.

    Args:
        drop: of the configuration.
        sites: all sites of the attachment.
        gaps: layers in which a position does not exist.
        layer_count: layers of the model.
    """
    own = [site for site in sites if site.position == drop.position]
    reach = (
        f"{len({site.layer for site in own})} of {layer_count} layers"
        if own[0].layer is not None
        else own[0].name
    )
    kernels = " and ".join(dict.fromkeys(site.kernel for site in own))
    return (
        f"{drop.position}: {drop.pattern}, rate {drop.rate:g}, rescale {drop.rescaling},"
        f" {reach}{_without([gap for gap in gaps if gap.position == drop.position])}, {kernels}"
    )


def _without(gaps: Sequence[Gap]) -> str:
    numbers = ", ".join(str(gap.layer) for gap in gaps if gap.layer is not None)
    outside = [gap.name for gap in gaps if gap.layer is None]
    words = [f"layers without: {numbers}"] if numbers else []
    words += [f"not in {', '.join(outside)}"] if outside else []
    return f" ({'; '.join(words)})" if words else ""


def loss_described(loss: Consistency, step: StepHooks | None) -> str:
    """Return what the added loss compares, and how.

    Args:
        loss: of the configuration.
        step: what computes it; ``None`` once detached.
    """
    added = None if step is None else step.consistency
    words = [f"consistency: {loss.kind}", f"weight {loss.weight:g}"]
    if loss.runs_twice:
        words.append(f"backward {loss.backward}")
    if isinstance(added, TemporalLoss):
        words.append(f"to each example's last prediction ({added.memory})")
    if loss.kind != SMOOTHING:
        words += [f"fraction {loss.fraction:g}", f"every {loss.every}"]
    words += [f"momentum {loss.momentum:g}"] if loss.momentum else []
    words += [f"second pass {loss.precision}"] if loss.precision != "same" else []
    words += ["chunked"] if added and added.is_chunked else []
    if step and (shared := step.shared):
        words.append(f"lower {len(shared.layers)} layers shared")
    return ", ".join(words)
