"""Examines one type: builds it tiny, puts LoRA and HiddenKey on it, and runs every check."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import nn

import hiddenkey
from hiddenkey import anatomy
from hiddenkey.anatomy.part import Gap
from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.testing import Report, examine_model
from model_tables.blocks import misfits, norm_sides
from model_tables.build import BuildError, Tiny, build
from model_tables.isolated import Outcome, run_jobs
from model_tables.model_types import Task
from model_tables.record import Row, Verdict
from model_tables.words import first_line, first_sentence

METHOD = "hiddenkey"
_HALVES = {"attention drops": "dropkey", "hidden drops": "hiddencut"}


def prepare() -> None:
    """Make a worker process ready: one thread, and transformers imported."""
    from hiddenkey.quiet import quiet

    # tiny models gain nothing from a second thread, and two that wait for each other lose much
    torch.set_num_threads(1)
    quiet()
    import peft  # noqa: F401


def examine(model_type: str, task: Task) -> Row:
    """Examine a type on a task; whatever the library and the type do is its row."""
    with warnings.catch_warnings():  # some models warn in each pass
        warnings.simplefilter("ignore")
        return _examine(model_type, task)


def sweep(chosen: Iterable[tuple[str, Task]], *, jobs: int, limit: float) -> Iterator[Row]:
    """Examine types in worker processes and yield their rows as they come.

    Args:
        chosen: types and tasks.
        jobs: number of processes.
        limit: seconds for one type.
    """
    for outcome in run_jobs(examine, chosen, workers=jobs, limit=limit, prepare=prepare):
        yield _row(outcome)


def _row(outcome: Outcome) -> Row:
    seconds = round(outcome.seconds, 1)
    if outcome.ending == "returned":
        return dataclasses.replace(cast(Row, outcome.value), seconds=seconds)
    model_type, task = outcome.job
    verdict: Verdict = "fails" if outcome.ending == "raised" else outcome.ending
    return Row(model_type, task, verdict, str(outcome.value), seconds=seconds)


def _examine(model_type: str, task: Task) -> Row:
    try:
        tiny = build(model_type, task)
    except BuildError as error:
        return Row(model_type, task, "cannot be built", str(error))
    base = tiny.model
    facts: dict[str, Any] = {
        "model": type(base).__name__,
        "parameters": tiny.parameters,
        "adapted": len(tiny.targets),
    }
    model = with_lora(tiny)
    batches = {"padded right": tiny.batch_right, "padded left": tiny.batch_left}
    if task == "image":
        batches = {"images": tiny.batch_right}
    report = examine_model(model, batches, METHOD)
    if report.refusal is not None:
        reason = f"{first_sentence(report.refusal)}{_halves(model)}"
        return Row(model_type, task, "refused", reason, **facts)
    names = [site.name for site in report.sites if site.kernel == "hook"]
    hidden = anatomy.transformer_of(base), names, next(iter(batches.values()))
    verdict, reason = _judge(report, misfits(*hidden))
    facts |= {
        **_reach(report),
        "feed_forward": tuple(dict.fromkeys(map(_pattern, names))),
        "norm": tuple(dict.fromkeys(norm_sides(*hidden).values())),
    }
    return Row(model_type, task, verdict, reason, **facts)


def with_lora(tiny: Tiny) -> Any:
    """Put LoRA on every linear layer that takes part, with B matrices that are not zero.

    A model without any, made of convolutions alone, is trained as a whole.
    """
    from peft import LoraConfig, get_peft_model

    if not tiny.targets:
        return tiny.model
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(tiny.targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(tiny.model, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    model.train()
    if not model(**tiny.batch_right).loss.requires_grad:
        model.enable_input_require_grads()  # reversible layers pass on only what came with gradient
    return model


def _judge(report: Report, misfits: list[str]) -> tuple[Verdict, str]:
    """Return the verdict and its reason."""
    faults = {finding.check: first_line(finding.detail) for finding in report.failures}
    if misfits:
        faults["feed-forward"] = "; ".join(misfits)
    if not faults:
        return "pass", ""
    reason = "; ".join(f"{check}: {detail}" for check, detail in faults.items())
    return "partial" if "coverage" in faults else "fails", reason


def _reach(report: Report) -> dict[str, Any]:
    sites = [site for site in report.sites if site.layer is not None]
    inside = [site for site in sites if site.kernel != "hook"]
    return {
        "layers": len({place.layer for place in (*sites, *report.gaps)} - {None}),
        "attention": dict(Counter(site.kernel for site in inside).most_common()),
        "attention_layers": len({site.layer for site in inside}),
        "hidden_layers": len({site.layer for site in sites if site.kernel == "hook"}),
        "gaps": tuple(dict.fromkeys(map(_gap, report.gaps))),
    }


def _gap(gap: Gap) -> str:
    where = f" at {_pattern(gap.name)}" if gap.layer is None else ""
    return f"{gap.position}{where}: {gap.reason}"


def _halves(model: Any) -> str:
    """Say which half of the method could be used where the whole is refused."""
    fitting = [half for half, name in _HALVES.items() if _attaches(model, name)]
    return f" ({' and '.join(fitting)} alone can be attached)" if fitting else ""


def _attaches(model: Any, name: str) -> bool:
    whole = hiddenkey.method(name)
    try:
        with hiddenkey.attach(model, DropoutConfig(drops=whole.drops)):
            return True
    except (AttachError, ConfigError, ConsistencyError):
        return False


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
