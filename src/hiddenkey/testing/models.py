"""The checks of a model: that a configuration acts on all of it, only in training, and comes off.

Nothing here trusts what the library says about itself. Sites are held against what a spy saw at
PyTorch's dispatcher, noise against passes in which one site alone may act, and everything else
against the same model without an attachment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

import hiddenkey
from hiddenkey import anatomy
from hiddenkey.attachment.attachment import Attachment
from hiddenkey.framework.catalogue import method
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.testing import leftovers, noise, plainness
from hiddenkey.testing.batches import named_batches
from hiddenkey.testing.checkpointing import check_checkpointing
from hiddenkey.testing.coverage import Coverage
from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import REFUSALS, Check, Report, run_checks
from hiddenkey.testing.passes import Batch, left_as_found, seeded
from hiddenkey.testing.visibility import check_visibility

Attach = Callable[[nn.Module, DropoutConfig], Attachment]


def examine_model(
    model: nn.Module,
    batches: Mapping[str, Batch] | Batch,
    config: str | DropoutConfig = "hiddenkey",
    *,
    attach: Attach = hiddenkey.attach,
) -> Report:
    """Check that a configuration does on a model all that it promises.

    The model comes back as it was: weights, buffers, gradients, flags and generators. About forty
    passes are run.

    Args:
        model: as it is trained, with its adapter; without an attachment.
        batches: arguments of the model by name of the batch, the first one being the main one; or
            one batch, of which padded ones are made (:func:`hiddenkey.testing.padded_batches`).
            Batches that the model cannot take by itself raise its own error.
        config: name of a method, or a configuration.
        attach: what puts the configuration on the model, such as
            ``functools.partial(hiddenkey.attach, kernel="reference")``.

    Returns:
        The report, with one finding for each check; with a ``refusal`` and no findings where the
        library refuses the model.
    """
    config = method(config) if isinstance(config, str) else config
    subject = type(model).__name__
    with left_as_found(model), seeded(model, 0):
        try:
            transformer = anatomy.transformer_of(model)
            named = named_batches(batches, transformer)
            examination = Examination(model, transformer, named, config, attach)
            examination.run_plainly()
            with attach(model, config) as attachment:
                sites, gaps = attachment.sites, tuple(getattr(attachment, "gaps", ()))
            checks: list[tuple[str, Check]] = [
                ("coverage", partial(_check_coverage, examination)),
                ("own dropout", partial(plainness.check_own_dropout, examination)),
                *checks_of_noise(examination),
            ]
            return Report(subject, run_checks(checks), sites, gaps)
        except REFUSALS as refusal:
            return Report(subject, (), refusal=str(refusal))


def checks_of_noise(examination: Examination) -> list[tuple[str, Check]]:
    """Return the checks that hold for any configuration on any part of a model."""
    checks: dict[str, Callable[[Examination], str]] = {
        "noise": noise.check_noise,
        "evaluation": plainness.check_evaluation,
        "gradients": noise.check_gradients,
        "padding": noise.check_padding,
        "visibility": check_visibility,
        "seeds": noise.check_seeds,
        "checkpointing": check_checkpointing,
        "rate zero": plainness.check_rate_zero,
        "shares": noise.check_shares,
        "detach": leftovers.check_detach,
    }
    return [(name, partial(check, examination)) for name, check in checks.items()]


def _check_coverage(examination: Examination) -> str:
    """Every layer is served or named as a gap, and no attention is computed elsewhere."""
    changes: dict[str, Any] = {"layers": None}
    if hasattr(examination.config, "attention"):
        changes["attention"] = ("self", "cross")
    everywhere = dataclasses.replace(examination.config, **changes)
    seen = examination.spy()
    with examination.attach(examination.model, everywhere) as attachment:
        sites, gaps = attachment.sites, tuple(getattr(attachment, "gaps", ()))
    return Coverage(examination.transformer, sites, gaps, seen).check()
