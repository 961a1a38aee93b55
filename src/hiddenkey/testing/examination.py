"""One model under examination, with its batches and what all checks need of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.attachment.attachment import Attachment
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.framework.config import Drop, DropoutConfig
from hiddenkey.testing.findings import REFUSALS, Finding, Report
from hiddenkey.testing.passes import (
    Batch,
    Pass,
    Runner,
    Tensors,
    buffers_kept,
    differences,
    left_as_found,
    objective,
    seeded,
    tensors_of,
)
from hiddenkey.testing.spy import Spy

# So small that no unit is dropped, and not 0: the library's own paths are taken, and nothing else.
VANISHING_RATE = 1e-12

# Largest difference of two ways to compute the same, relative to the largest value.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


Attach = Callable[[nn.Module, DropoutConfig], Attachment]


@dataclass(frozen=True)
class Examination:
    """A model, its batches, and the configuration that it is examined with.

    Attributes:
        model: as it is trained.
        transformer: the Hugging Face model in it.
        batches: arguments of the model by the batch's name.
        config: the configuration.
        attach: puts a configuration on the model.
    """

    model: nn.Module
    transformer: nn.Module
    batches: dict[str, Batch]
    config: DropoutConfig
    attach: Attach

    @cached_property
    def runner(self) -> Runner:
        """Runs the model."""
        return Runner(self.model)

    @cached_property
    def plain_passes(self) -> dict[str, Pass]:
        """A training pass of the model without an attachment, for each batch."""
        return {name: self.runner.train(batch) for name, batch in self.batches.items()}

    def run_plainly(self) -> None:
        """Run each batch once, so that a model that cannot take one raises its own error."""
        self.evaluations()
        _ = self.plain_passes  # runs them, and keeps them

    @property
    def batch(self) -> Batch:
        """The main batch."""
        return next(iter(self.batches.values()))

    @property
    def tolerance(self) -> float:
        """Largest relative difference that rounding explains, by the coarsest dtype."""
        dtypes = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        return max(_TOLERANCES.get(dtype, 1e-1) for dtype in dtypes or {torch.float32})

    @contextmanager
    def attached(self, config: DropoutConfig | None = None) -> Iterator[Attachment]:
        """Put the examined configuration, or another one, on the model."""
        with self.attach(self.model, self.config if config is None else config) as attachment:
            yield attachment

    def at_rate(self, rate: float, drops: Sequence[Drop] | None = None) -> DropoutConfig:
        """Return the configuration with some drops, or all, at a rate, and without its loss."""
        chosen = self.config.drops if drops is None else drops
        return dataclasses.replace(
            self.config,
            drops=tuple(dataclasses.replace(drop, rate=rate) for drop in chosen),
            consistency=None,
            keep_model_dropout=False,
        )

    def evaluations(self) -> dict[str, Tensors]:
        """Return the outputs in evaluation mode for each batch."""
        return {name: self.runner.evaluate(batch) for name, batch in self.batches.items()}

    def spy(self) -> Spy:
        """Return a spy that watched the model, as it is now, in a training pass."""
        ids = self.batch.get("input_ids")
        tokens = None
        if isinstance(ids, Tensor) and ids.dim() == 2:
            tokens = ids.shape[0], ids.shape[1]
        with Spy(self.transformer, tokens) as spy:
            self.runner.forward(self.batch, 0)
        return spy

    def depends_on(self, name: str) -> bool:
        """Whether some output of the model, without an attachment, depends on a module.

        It does if the module's parameters get a gradient, or if other values in place of what
        leaves the module change an output.
        """
        module = self.transformer.get_submodule(name)
        return self._has_gradient(module) or self._has_effect(module)

    def _has_gradient(self, module: nn.Module) -> bool:
        own = [p for p in module.parameters() if p.is_floating_point()]
        frozen = [parameter for parameter in own if not parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            with seeded(self.model, 0), buffers_kept(self.model), torch.enable_grad():
                loss = objective(tensors_of(self.model.train()(**self.batch)))
                found = torch.autograd.grad(loss, own, allow_unused=True) if own else ()
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
        return any(gradient is not None and bool(gradient.ne(0).any()) for gradient in found)

    def _has_effect(self, module: nn.Module) -> bool:
        plain = self.runner.evaluate(self.batch)
        handle = module.register_forward_hook(lambda module, args, output: _moved(output))
        try:
            return bool(differences(plain, self.runner.evaluate(self.batch)))
        finally:
            handle.remove()


def examine(
    model: nn.Module,
    batches: Mapping[str, Batch] | Batch,
    config: DropoutConfig,
    attach: Attach,
    subject: str,
    checks: Callable[[Examination], tuple[Finding, ...]],
) -> Report:
    """Run checks of a configuration on a model, and leave the model as it was.

    Args:
        model: as it is trained, without an attachment.
        batches: arguments of the model by name of the batch, or one batch.
        config: the configuration.
        attach: puts it on the model.
        subject: what is examined, in words.
        checks: returns the findings.
    """
    with left_as_found(model), seeded(model, 0):
        try:
            transformer = anatomy.transformer_of(model)
            named = _named_batches(batches, transformer)
            examination = Examination(model, transformer, named, config, attach)
            examination.run_plainly()
            with examination.attached() as attachment:
                sites, gaps = attachment.sites, attachment.gaps
            return Report(subject, checks(examination), sites, gaps)
        except REFUSALS as refusal:
            return Report(subject, (), refusal=str(refusal))


def padded_batches(
    batch: Batch, *, pad_token: int | None = None, shared_labels: bool = True
) -> dict[str, Batch]:
    """Make batches with padding from one batch of text.

    Every other sequence, or the only one, is shortened, or in the last batch left with a single
    token. Batches without ``input_ids`` ``[batch, tokens]`` stay alone.

    Args:
        batch: arguments of a model, with ``input_ids``.
        pad_token: what padding shows in ``input_ids``; ``None`` leaves them as they are.
        shared_labels: labels of the shape of ``input_ids`` belong to the same tokens, and those of
            padding count nothing; not so in an encoder-decoder.

    Returns:
        ``plain``, the batch as it is, ``padded right``, ``padded left``, ``almost all padding``.
    """
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] < 3:
        return {"plain": batch}
    tokens = ids.shape[1]
    mask = torch.ones_like(ids)
    given = batch.get("attention_mask")
    short, one = mask.clone(), mask.clone()
    first = 0 if len(ids) == 1 else 1
    short[first::2, tokens - tokens // 3 :] = 0
    one[first::2, 1:] = 0
    masks = {"padded right": short, "padded left": short.flip(1), "almost all padding": one}
    if isinstance(given, Tensor) and given.shape == mask.shape:
        masks = {name: made * given for name, made in masks.items()}
    padded = {
        name: _with_mask(batch, made, pad_token, shared_labels) for name, made in masks.items()
    }
    return {"plain": batch, **padded}


def _named_batches(
    batches: Mapping[str, Batch] | Batch, transformer: nn.Module
) -> dict[str, Batch]:
    """Return several batches by name; one that came alone is joined by padded ones."""
    if all(isinstance(batch, Mapping) for batch in batches.values()):
        return dict(cast(Mapping[str, Batch], batches))
    config: Any = getattr(transformer, "config", None)
    return padded_batches(
        batches,
        pad_token=getattr(config, "pad_token_id", None),
        shared_labels=not getattr(config, "is_encoder_decoder", False),
    )


def _with_mask(batch: Batch, mask: Tensor, pad_token: int | None, shared_labels: bool) -> Batch:
    found = {**batch, "attention_mask": mask}
    if pad_token is not None:
        found["input_ids"] = batch["input_ids"].masked_fill(mask == 0, pad_token)
    labels = batch.get("labels")
    if shared_labels and isinstance(labels, Tensor) and labels.shape == mask.shape:
        # a shifted label is predicted from the token before it, which must not be padding
        unseen = (mask == 0) | (mask.cumsum(1) <= 1)
        found["labels"] = labels.masked_fill(unseen, IGNORED_LABEL)
    return found


def _moved(output: Any) -> Any:
    """Return a module's output with other numbers in its first tensor."""
    if isinstance(output, tuple):
        return (_moved(output[0]), *output[1:])
    return output + torch.randn_like(output) if isinstance(output, Tensor) else output
