"""What is checked of each adapter: the conformance suite, the consistency loss, and saving."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

import hiddenkey
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.framework.compensation import CONSISTENCIES
from hiddenkey.testing import Finding, Report, examine_model
from hiddenkey.testing.findings import REFUSALS
from hiddenkey.testing.passes import Runner, buffers_kept, distance
from model_tables.adapters.bases import PLACES, TASKS, seeded
from model_tables.adapters.nature import BESIDE, own_nature
from model_tables.adapters.recipe import AdapterMethod
from model_tables.words import first_sentence

_TOLERANCE: Final = 1e-4  # float32's rounding, relative to the largest value
_METHOD: Final = hiddenkey.method("hiddenkey", rate=0.3)
_NOISE: Final = dataclasses.replace(_METHOD, consistency=None)

VERDICTS: Final = {
    "pass": "every check held",
    "noise only": "the noise passes; the consistency loss is refused, with a reason",
    "refused": "the library does not attach, and says why",
    "PEFT cannot": "it fails without HiddenKey too",
    "not tried": "a package that it needs is not installed",
    "fails": "it attached, and a check did not hold",
}


@dataclass(frozen=True)
class AdapterRow:
    """What was found of one adapter on one model; a line of the table.

    Attributes:
        peft_type: name in ``peft.PeftType``.
        variant: initialisation or form.
        model: the tiny model.
        sites: places found of those that exist, such as ``4 of 4``.
        consistency: whether loss and gradients are those of two passes by hand.
        gradients: how many of the parameters that are trained are reached.
        saved: whether the saved adapter gives equal outputs when it is loaded without the library.
        checkpointing: whether activation checkpointing changes nothing.
        verdict: a key of :data:`VERDICTS`.
        reason: of a verdict that is not ``pass``, and limits of PEFT's own.
    """

    peft_type: str
    variant: str
    model: str
    sites: str = ""
    consistency: str = ""
    gradients: str = ""
    saved: str = ""
    checkpointing: str = ""
    verdict: str = "pass"
    reason: str = ""


def examine_adapter(method: AdapterMethod, base: str) -> AdapterRow:
    """Put an adapter on a tiny model and check all that HiddenKey promises there."""
    row = AdapterRow(method.peft_type, method.variant, base, reason=method.note)
    batch = method.batch(base)
    if method.needs and find_spec(method.needs) is None:
        reason = f"needs {method.needs}, which is not installed"
        return dataclasses.replace(row, verdict="not tried", reason=reason)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on settings that are tiny on purpose
        try:
            model = method.build(base, Path(folder))
            _refuse_what_cannot_train(model, batch)
        except Exception as error:  # whatever PEFT raises is the row's reason
            return dataclasses.replace(
                row,
                verdict="PEFT cannot",
                reason=f"{type(error).__name__}: {first_sentence(str(error))}",
            )
        report = examine_model(model, batch, _NOISE)
        if report.refusal is not None:
            return dataclasses.replace(row, verdict="refused", reason=report.refusal)
        row = dataclasses.replace(row, **_of_report(row, report, own_nature(model, batch)))
        row = dataclasses.replace(row, **_of_consistency(row, method, Path(folder)))
        return dataclasses.replace(row, **_of_saving(row, method, model, Path(folder)))


def consistency_fault(
    build: Callable[[], Any], batch: Mapping[str, Tensor], *, shifts: bool
) -> str | None:
    """Hold the consistency loss and its gradients against two passes made one after the other.

    Args:
        build: makes the adapted model, the same each time; some keep draws for later passes.
        batch: arguments of the model.
        shifts: whether a token's label is compared at the token before it.

    Raises:
        ConfigError, ConsistencyError: if the library refuses the loss on this model.
    """
    model = build()
    with hiddenkey.attach(model, _METHOD, lm_loss="full"):
        found = _loss_and_gradients(model, lambda: model(**batch).loss)
    by_hand = build()
    with hiddenkey.attach(by_hand, _NOISE):
        expected = _loss_and_gradients(by_hand, lambda: _loss_by_hand(by_hand, batch, shifts))
    apart = float((found[0] - expected[0]).abs() / expected[0].abs())
    if apart > _TOLERANCE:
        return f"the loss is {apart:.1e} away from that of two passes by hand (relative)"
    if found[1].keys() != expected[1].keys():
        return "other parameters have gradients than in two passes by hand"
    apart = max((distance(found[1][n], expected[1][n]) for n in found[1]), default=0.0)
    if apart > _TOLERANCE:
        return f"gradients are {apart:.1e} away from those of two passes by hand (relative)"
    return None


def _loss_by_hand(model: Any, batch: Mapping[str, Tensor], shifts: bool) -> Tensor:
    """Return task loss plus bidirectional KL, over sequences or labelled tokens."""
    with torch.no_grad():
        other = model(**batch).logits
    output = model(**batch)
    trained, labels = output.logits, batch["labels"]
    if labels.dim() == 2:  # prompts come before the tokens, and have no labels
        labels = F.pad(labels, (trained.shape[1] - labels.shape[1], 0), value=IGNORED_LABEL)
        if shifts:
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        rows = labels != IGNORED_LABEL
        trained, other = trained[rows], other[rows]
    return output.loss + CONSISTENCIES["kl"](trained, other).mean()  # type: ignore[no-any-return]


def _loss_and_gradients(
    model: Any, loss_of: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    model.train()
    model.zero_grad(set_to_none=True)
    with seeded(0), buffers_kept(model):
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def saving_fault(
    method: AdapterMethod, base: str, model: Any, folder: Path, *, attach: bool = True
) -> str | None:
    """Train and save an adapter, load it on a new model without the library, and compare outputs.

    Args:
        method: the adapter.
        base: the tiny model's name.
        model: the adapted model; it is trained.
        folder: where to save.
        attach: train and save it with HiddenKey at work.
    """
    from peft import PeftModel

    batch = method.batch(base)
    with hiddenkey.attach(model, _NOISE) if attach else nullcontext():
        _train(model, batch, steps=2)
        model.save_pretrained(str(folder))
    if any("hiddenkey" in path.name for path in folder.iterdir()):
        return "there is a file of hiddenkey's beside the adapter"
    loaded = PeftModel.from_pretrained(method.base_model(base), str(folder))
    del batch["labels"]
    found, expected = (Runner(one).evaluate(batch)["logits"] for one in (loaded, model))
    apart = distance(found, expected)
    return None if apart <= _TOLERANCE else f"the loaded adapter's outputs are {apart:.1e} away"


def _refuse_what_cannot_train(model: Any, batch: Mapping[str, Tensor]) -> None:
    """Raise what an adapter raises without the library, or if an evaluation ends its training."""
    runner = Runner(model)
    before = runner.train(batch).reached
    runner.evaluate(batch)
    try:
        after = runner.train(batch).reached
    except RuntimeError as error:
        raise RuntimeError(f"in a training pass after an evaluation, {error}") from error
    if before - after:
        raise RuntimeError(
            f"after an evaluation {len(before - after)} of {len(before)} parameters lose their"
            " gradient"
        )


def _of_report(row: AdapterRow, report: Report, nature: list[str]) -> dict[str, str]:
    details = {finding.check: finding for finding in report.findings}
    checkpointing, gradients = details["checkpointing"], details["gradients"]
    beside = [check for note in nature for check in BESIDE[note]]
    faults = [f"{f.check}: {f.detail}" for f in report.failures if f.check not in beside]
    reached = re.search(r"\d+", gradients.detail)
    return {
        "sites": f"{len(report.sites)} of {PLACES[row.model]}",
        "gradients": reached.group() if gradients.passed and reached else "no",
        "checkpointing": _of_checkpointing(checkpointing),
        "verdict": "fails" if faults else "pass",
        "reason": "; ".join(part for part in (row.reason, *faults, *nature) if part),
    }


def _of_checkpointing(finding: Finding) -> str:
    if not finding.passed:
        return "no"
    # the tiny models support it, so it is the adapter that does not
    return "PEFT cannot" if finding.detail.startswith("not checked") else "same"


def _of_consistency(row: AdapterRow, method: AdapterMethod, folder: Path) -> dict[str, str]:
    try:
        fault = consistency_fault(
            lambda: method.build(row.model, folder),
            method.batch(row.model),
            shifts=TASKS[row.model] == "CAUSAL_LM",
        )
    except REFUSALS as refusal:
        verdict = "noise only" if row.verdict == "pass" else row.verdict
        return {"consistency": "refused", "verdict": verdict, "reason": _joined(row, refusal)}
    if fault is None:
        return {"consistency": "exact"}
    return {"consistency": "no", "verdict": "fails", "reason": _joined(row, fault)}


def _of_saving(row: AdapterRow, method: AdapterMethod, model: Any, folder: Path) -> dict[str, str]:
    fault = _tried(lambda: saving_fault(method, row.model, model, folder / "attached"))
    if fault is None:
        return {"saved": "same"}
    alone = method.build(row.model, folder)
    own = _tried(lambda: saving_fault(method, row.model, alone, folder / "alone", attach=False))
    if own is not None:
        return {"saved": "PEFT cannot", "reason": _joined(row, f"saved by PEFT alone, {own}")}
    return {"saved": "no", "verdict": "fails", "reason": _joined(row, f"saved: {fault}")}


def _tried(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:  # whatever PEFT raises is the row's reason
        return f"{type(error).__name__}: {first_sentence(str(error))}"


def _train(model: Any, batch: Mapping[str, Tensor], *, steps: int) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for seed in range(steps):
        with seeded(seed):
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _joined(row: AdapterRow, reason: object) -> str:
    return "; ".join(part for part in (row.reason, str(reason)) if part)
