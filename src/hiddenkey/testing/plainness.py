"""Checks that the model itself stays what it is: in evaluation, and where nothing is dropped."""

from __future__ import annotations

import torch

from hiddenkey.attachment import model_dropout
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.testing.examination import VANISHING_RATE, Examination
from hiddenkey.testing.findings import CheckError, fail_if
from hiddenkey.testing.passes import Pass, differences, without_dropout_modules


def check_evaluation(examination: Examination) -> str:
    """Evaluation is bit-equal with and without the attachment, and draws as many numbers."""
    plain = examination.evaluations()
    with examination.attached():
        state = torch.get_rng_state()
        found = examination.evaluations()
        if not torch.equal(state, torch.get_rng_state()):
            raise CheckError("evaluation moves PyTorch's random generator")
    faults = [
        f"{name}: {', '.join(differ)} differ from evaluation without the attachment"
        for name in plain
        if (differ := differences(plain[name], found[name]))
    ]
    fail_if(faults)
    return f"bit-equal in {len(plain)} batches"


def check_own_dropout(examination: Examination) -> str:
    """The model draws no random numbers of its own, so that all noise is the configured one.

    A router that draws to choose its experts is left alone, and named.
    """
    with without_dropout_modules(examination.model), examination.attached(DropoutConfig()):
        seen = examination.spy()
    drawn = {(operation.module or "the model", operation.name) for operation in seen.random}
    fail_if([f"{module} still draws ({name})" for module, name in sorted(drawn)])
    routers = dict.fromkeys(operation.module for operation in seen.routing)
    return f"none but the routing of {', '.join(routers)}" if routers else "none"


def check_rate_zero(examination: Examination) -> str:
    """Where nothing is dropped, loss and gradients are those of the model without dropout.

    At a rate of exactly zero, and at one so small that no unit is dropped, where the library's own
    paths run. The model without dropout is its evaluation mode, or, for a model that does other
    things in training, its training mode with all dropout rates set to zero. Where a router draws,
    masks would move its draws, and the rate of exactly zero alone is looked at.
    """
    with without_dropout_modules(examination.model):
        plain = examination.runner.train(examination.batch, training=False)
        found = {}
        for rate in (0.0,) if examination.spy().routing else (0.0, VANISHING_RATE):
            with examination.attached(examination.at_rate(rate)):
                found[rate] = examination.runner.train(examination.batch)
        reference = "evaluation"
        if max(one.apart(plain) for one in found.values()) > examination.tolerance:
            reference = "training without dropout"
            plain = _train_without_dropout(examination)
    apart = {rate: one.apart(plain) for rate, one in found.items()}
    worst = max(apart, key=lambda rate: apart[rate])
    if apart[worst] > examination.tolerance:
        raise CheckError(
            f"at rate {worst:g} loss or gradients are {apart[worst]:.1e} away from {reference}"
            f" (relative; {examination.tolerance:g} is allowed)"
        )
    return f"at most {apart[worst]:.1e} away from {reference}"


def _train_without_dropout(examination: Examination) -> Pass:
    settings = model_dropout.switch_off(examination.transformer)
    try:
        return examination.runner.train(examination.batch)
    finally:
        model_dropout.restore(settings)
