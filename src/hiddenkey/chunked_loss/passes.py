"""The two passes of a language model and their loss, computed from hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hiddenkey.chunked_loss.capture import Captured, HeadCapture
from hiddenkey.chunked_loss.chunked import labelled_loss
from hiddenkey.chunked_loss.past import Past, Remember
from hiddenkey.chunked_loss.sums import IGNORED_LABEL, Factors, Sums
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation import SMOOTHING
from hiddenkey.framework.consistency import Consistency


@dataclass(frozen=True)
class SecondStates:
    """What is kept of the second forward pass.

    Attributes:
        rows: ``[rows, hidden]``, what reached the head at the labelled positions.
        own_loss: what the model itself added to its loss; 0 for most.
        chosen: ``[sequences]``, indices of the sequences that took part; ``None`` means all.
    """

    rows: Tensor
    own_loss: Tensor
    chosen: Tensor | None


class ChunkedPasses:
    """The language-model loss of one attached model, without logits.

    Args:
        transformer: a model that :func:`hiddenkey.chunked_loss.capture.refusal` allows.
        consistency: the configured loss.

    Attributes:
        refusal: why the model turned out to need its logits; found in the first pass.
        sums: of the last trained pass; ``None`` if it had its logits.
    """

    def __init__(self, transformer: Any, consistency: Consistency) -> None:
        self.refusal: str | None = None
        self.sums: Sums | None = None
        self._consistency = consistency
        self._capture = HeadCapture(transformer)
        self._parts: tuple[Tensor, Tensor] | None = None
        self._is_running = False

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._capture.remove()

    @property
    def vocabulary(self) -> int:
        """Number of classes; known once a pass has shown it."""
        return self._capture.head().size

    def serves(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a model call can go without logits."""
        if self.refusal is None and self._capture.is_loss_replaced:
            self.refusal = "the loss function was replaced after attach"
            self._capture.remove()
        keeps = arguments.get("logits_to_keep")
        asks = keeps is not None and (isinstance(keeps, Tensor) or keeps != 0)
        return self.refusal is None and arguments.get("labels") is not None and not asks

    def before(
        self, run: Callable[[], Any], device: torch.device, chosen: Tensor | None
    ) -> SecondStates | None:
        """Run the second forward pass.

        Args:
            run: calls the model with labels, past its own hooks.
            device: of the model.
            chosen: the sequences of the batch that take part.

        Returns:
            What is kept of it. ``None`` if it shows that the model needs its logits, which is then
            :attr:`refusal`; random numbers are as if the pass had not been.

        Raises:
            ConsistencyError: if a pass did not work as the first one did.
        """
        state = None if self._capture.is_verified else _random_state(device)
        self._capture.begin()
        try:
            output = run()
            captured = self._capture.take(output)
        finally:
            self._capture.end()
        if not isinstance(captured, str):
            labels = captured.labels.flatten()
            kept = (labels != IGNORED_LABEL).nonzero().squeeze(-1)
            rows = captured.states.flatten(0, 1).index_select(0, kept)
            return SecondStates(rows, output.loss, chosen)
        if state is None:
            raise _surprise(captured)
        self.refusal = captured
        self._capture.remove()
        _restore_random_state(device, state)
        return None

    def verify(self, run: Callable[[], Any]) -> None:
        """Find out, where no second forward pass has, whether the model can go without logits.

        If it cannot, :attr:`refusal` says why.

        Args:
            run: calls the model with labels, past its own hooks and without noise.
        """
        if self._capture.is_verified or self.refusal is not None:
            return
        self._capture.begin()
        try:
            captured = self._capture.take(run())
        finally:
            self._capture.end()
        if isinstance(captured, str):
            self.refusal = captured
            self._capture.remove()

    def begin(self, second: SecondStates | Remember | None) -> None:
        """Let the trained pass, which comes next, run without logits.

        Args:
            second: what is kept of the second forward pass, or what finds earlier predictions;
                ``None`` in a pass without either.
        """
        if second is None and not self._capture.is_verified:
            return  # a resumed run may begin with such a pass; it takes the model's own way
        self._capture.begin(lambda captured: self._compute(captured, second))
        self._is_running = True

    def end(self) -> None:
        """Clear up after the trained pass, however it ended. Does nothing twice."""
        self._capture.end()
        self._parts = None
        self._is_running = False

    def finish(
        self, output: Any, second: SecondStates | Remember | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return the trained pass's loss and the consistency loss in it.

        ``None`` if the pass had its logits.

        Raises:
            ConsistencyError: if the pass did not work as the first one did.
        """
        if not self._is_running:
            return None
        captured = self._capture.take(output)
        if isinstance(captured, str) or self._parts is None:
            raise _surprise(str(captured))
        (loss, extra), own = self._parts, output.loss
        if isinstance(second, SecondStates) and self._consistency.backward == "both":
            own = (own + second.own_loss) / 2
        self.end()
        adds = second is not None or self._consistency.kind == SMOOTHING
        return loss + own, extra if adds else None

    def _compute(self, captured: Captured, target: SecondStates | Remember | None) -> None:
        labels, states = captured.labels, captured.states.flatten(0, 1)
        second = target if isinstance(target, SecondStates) else None
        past = target(labels) if callable(target) else None
        order = None if second is None else second.chosen
        kept = _labelled_rows(labels, order)
        compared = 0 if second is None else len(second.rows)
        factors = self._factors(captured, second, past, len(kept))
        sums = labelled_loss(
            states.index_select(0, kept),
            labels.flatten().index_select(0, kept),
            self._capture.head(),
            second.rows.to(states.dtype) if second is not None and compared else None,
            factors,
            past=past,
            entropy=True,
        )
        units: Any = captured.items
        if units is None:
            units = max(1, len(kept))
        elif isinstance(units, Tensor):
            units = units.to(states.device)
        self.sums = sums._replace(loss=sums.loss.detach())  # a model with a graph cannot be copied
        self._parts = (sums.loss / units, factors.divergence * sums.divergence / units)

    def _factors(
        self, captured: Captured, second: SecondStates | None, past: Past | None, rows: int
    ) -> Factors:
        settings, scale = self._consistency, 1.0
        if second is None:
            alone = settings.weight if settings.kind == SMOOTHING else 0.0
            return Factors(alone if past is None else past.factor, kind=settings.kind)
        if second.chosen is not None:  # the chosen sequences stand for the whole batch
            scale = captured.labels.shape[0] / len(second.chosen)
        divergence = settings.weight * settings.every * scale
        # the mean of a second pass without a labelled token does not exist
        is_alone = captured.items is None and not len(second.rows)
        if settings.backward == "one" or is_alone:
            return Factors(divergence, kind=settings.kind)
        if captured.items is None:  # a mean over the rows of its own pass
            scale = rows / max(1, len(second.rows))
        return Factors(divergence, 0.5, 0.5 * scale, settings.kind)


def _labelled_rows(labels: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the flat indices of labelled positions, those of the chosen sequences first."""
    labelled = labels != IGNORED_LABEL
    if chosen is None:
        return labelled.flatten().nonzero().squeeze(-1)
    batch, tokens = labels.shape
    others = torch.ones(batch, dtype=torch.bool, device=labels.device)
    others[chosen] = False
    order = torch.cat([chosen, others.nonzero().squeeze(-1)])
    rows = order[:, None] * tokens + torch.arange(tokens, device=labels.device)
    return rows[labelled[order]]


def _surprise(reason: str) -> ConsistencyError:
    return ConsistencyError(
        "the language-model loss was to be computed without full logits, as in earlier passes, but"
        f" in this call {reason.removeprefix('it ')}; attach with lm_loss='full'"
    )


def _random_state(device: torch.device) -> list[Tensor]:
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def _restore_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.get_device_module(device).set_rng_state(state[1], device)
