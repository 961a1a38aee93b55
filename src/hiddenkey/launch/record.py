"""What a training with an attached method leaves in a record folder, for whoever started it.

The first process writes three files, each whole or not at all:

- ``attached.json`` when training begins: the trainer, the model, the method, and a fingerprint of
  the trainable weights;
- ``log.jsonl``: a line for each log and each evaluation, with ``step``, ``epoch`` and all numbers;
- ``finished.json`` when training ends: times, losses, observed drop rates, and a fingerprint of the
  batches.

Two trainings with equal fingerprints began with equal weights and saw the same batches in order, by
the whole numbers in them: tokens, masks and labels, of large tensors a million entries at equal
distances. Images and sounds are not looked at.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from hiddenkey import anatomy
from hiddenkey.attachment.attachment import Attachment
from hiddenkey.files import plain, write_whole
from hiddenkey.framework.schedule import by_position
from hiddenkey.launch.stages import ATTACHED, FINISHED, LOG
from hiddenkey.memory import peak_resident_mib

_PAUSE: Final = 5.0
"""Seconds between two writings of a growing log."""
_LOSSES: Final = frozenset(("task_loss", "consistency_loss"))
_MOST_ENTRIES: Final = 2**20
_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Record:
    """Writes a record folder during one training.

    Args:
        folder: where to write; ``None`` writes nothing, in processes that are not the first.
        method: name of the method.
    """

    def __init__(self, folder: Path | None, method: str) -> None:
        self._folder, self._method = folder, method
        self._lines: list[dict[str, float]] = []
        self._written = -math.inf
        self._handle: Any = None
        self._batches = hashlib.sha256()
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._steps: list[float] = []
        self._began = self._step_began = 0.0

    def begin(self, attachment: Attachment, model: nn.Module, about: Mapping[str, Any]) -> None:
        """Write down what training begins with, and count batches from now on.

        Args:
            attachment: what was attached.
            model: what is trained, adapters included.
            about: the trainer's class, and numbers of processes and examples.
        """
        self._began = time.perf_counter()
        if self._folder is None:
            return
        self._handle = attachment.called_module.register_forward_pre_hook(
            self._see_batch, with_kwargs=True
        )
        transformer = anatomy.transformer_of(model)
        name = getattr(getattr(transformer, "config", None), "_name_or_path", None)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._write(
            ATTACHED,
            {
                **about,
                "model": type(transformer).__name__,
                "model_name": Path(name).name if name else None,
                "method": self._method,
                "config": attachment.config.to_dict(),
                "summary": attachment.summary(),
                "trainable_parameters": sum(p.numel() for p in trained.values()),
                "total_parameters": sum(p.numel() for p in model.parameters()),
                "weights": fingerprint(trained),
            },
        )

    def begin_step(self) -> None:
        """Start the clock of an optimiser step."""
        self._step_began = time.perf_counter()

    def end_step(self) -> None:
        """Stop it."""
        self._steps.append(time.perf_counter() - self._step_began)

    def log(self, values: Mapping[str, Any], step: int, epoch: float | None) -> None:
        """Add a line of numbers; those of an evaluation are written at once.

        Args:
            values: what was logged; what is no number is left out.
            step: optimiser steps so far.
            epoch: passes over the data so far.
        """
        numbers = {name: _number(value) for name, value in values.items()}
        line = {name: number for name, number in numbers.items() if number is not None}
        self._lines.append({"step": step, "epoch": epoch or 0.0, **line})
        self.see(line)
        if "loss" not in line or time.monotonic() - self._written > _PAUSE:
            self._write_log()

    def has_line_of(self, step: int) -> bool:
        """Whether the log's last line is of this step."""
        return bool(self._lines) and self._lines[-1]["step"] == step

    def see(self, parts: Mapping[str, float]) -> None:
        """Let the parts of the loss count for the end of the record."""
        for name in _LOSSES & parts.keys():
            self._losses[name].append(parts[name])

    def finish(self, steps: int, attachment: Attachment, observed: Mapping[str, float]) -> None:
        """Write down what training ended with.

        Args:
            steps: optimiser steps, those before a resumption included.
            attachment: what was attached.
            observed: mean drop rate of each site that was reached, by :attr:`Site.key`.
        """
        if self._folder is None:
            return
        self.close()
        self._write_log()
        later = self._steps[1:] or self._steps  # the first step looks at the model once
        losses = {
            name: fmean(self._losses[name]) if self._losses[name] else None for name in _LOSSES
        }
        self._write(
            FINISHED,
            {
                "steps": steps,
                "seconds": time.perf_counter() - self._began,
                "seconds_per_step": fmean(later) if later else None,
                "batches": self._batches.hexdigest(),
                "dropped": by_position(
                    observed, [s for s in attachment.sites if s.key in observed]
                ),
                "sites": {site.key: observed.get(site.key) for site in attachment.sites},
                **losses,
                "peak_memory_mib": _peak_memory_mib(),
            },
        )

    def close(self) -> None:
        """Look at no more batches. Does nothing twice."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @_disable_dynamo  # a compiled graph has no place for bytes
    def _see_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        given = [*((str(n), value) for n, value in enumerate(args)), *sorted(kwargs.items())]
        for name, value in given:
            # a number without axes is no batch: trainers hand over the count of labelled tokens
            if isinstance(value, Tensor) and value.dtype in _INTEGERS and value.ndim:
                self._batches.update(f"{name}{tuple(value.shape)}".encode())
                self._batches.update(_bytes(value))

    def _write_log(self) -> None:
        self._written = time.monotonic()
        self._keep(LOG, "".join(json.dumps(plain(line)) + "\n" for line in self._lines))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._keep(name, json.dumps(plain(content), indent=1) + "\n")

    def _keep(self, name: str, text: str) -> None:
        """Write a file, unless the folder is gone: a training may outlive the command's own."""
        if self._folder is not None and self._folder.is_dir():
            write_whole(self._folder / name, text)


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Return SHA-256 over the names and bytes of tensors, by name.

    Of a tensor with more than a million entries it reads a million at equal distances.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        found.update(f"{name}{tuple(parameter.shape)}".encode())
        found.update(_bytes(parameter.detach()))
    return found.hexdigest()


def _peak_memory_mib() -> float | None:
    """Return the most memory held so far: the GPU's, or this process's resident memory."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mib()


@torch.no_grad()
def _bytes(tensor: Tensor) -> bytes:
    local = getattr(tensor, "to_local", None)  # a sharded weight's own part
    flat = (tensor if local is None else local()).reshape(-1)
    flat = flat[:: 1 + (flat.numel() - 1) // _MOST_ENTRIES] if flat.numel() else flat
    return flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
