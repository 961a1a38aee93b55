"""The checks of a model: that a configuration acts on all of it, only in training, and comes off.

Nothing here trusts what the library says about itself. Sites are held against what a spy saw at
PyTorch's dispatcher, noise against passes in which one site alone may act, and everything else
against the same model without an attachment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from torch import nn

import hiddenkey
from hiddenkey.framework.catalogue import method
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.positions import ATTENTION_KINDS
from hiddenkey.testing import noise, plainness
from hiddenkey.testing.coverage import Coverage
from hiddenkey.testing.examination import Attach, Examination, examine
from hiddenkey.testing.findings import Checks, Report, run_checks
from hiddenkey.testing.passes import Batch
from hiddenkey.testing.visibility import check_visibility


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
        model: as it is trained, with its adapter; without an attachment. A fresh LoRA whose B is
            zero has no update to drop: make it with ``init_lora_weights=False`` for ``coto``.
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
    return examine(
        model,
        batches,
        config,
        attach,
        type(model).__name__,
        lambda examination: run_checks(_CHECKS, examination),
    )


def _check_coverage(examination: Examination) -> str:
    """Every layer is served or named as a gap, and no attention is computed elsewhere."""
    everywhere = dataclasses.replace(examination.config, layers=None, attention=ATTENTION_KINDS)
    seen = examination.spy()
    with examination.attached(everywhere) as attachment:
        sites, gaps = attachment.sites, attachment.gaps
    return Coverage(examination.transformer, sites, gaps, seen).check()


CHECKS_OF_NOISE: Final[Checks[Examination]] = {
    "noise": noise.check_noise,
    "evaluation": plainness.check_evaluation,
    "gradients": noise.check_gradients,
    "padding": noise.check_padding,
    "visibility": check_visibility,
    "seeds": noise.check_seeds,
    "checkpointing": plainness.check_checkpointing,
    "rate zero": plainness.check_rate_zero,
    "shares": noise.check_shares,
    "detach": plainness.check_detach,
}
"""The checks that hold for any configuration on any part of a model."""

_CHECKS: Final[Checks[Examination]] = {
    "coverage": _check_coverage,
    "own dropout": plainness.check_own_dropout,
    **CHECKS_OF_NOISE,
}
