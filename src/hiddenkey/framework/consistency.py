"""The loss that is added to the task loss: its settings, and which of them fit together.

It is half of the third axis of *LoRA Meets Dropout under a Unified Framework* (arXiv 2403.00812):
how the gap between training and inference is closed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hiddenkey.errors import is_number, is_one_of, not_one_of
from hiddenkey.framework.compensation import KINDS, SMOOTHING, TARGETS


@dataclass(frozen=True)
class Consistency:
    """A loss that is added to the task loss, most often between two passes over the same batch.

    Attributes:
        kind: ``kl``, bidirectional between two training passes; ``js``, from the training pass to
            an inference pass; ``mixture``, the mean divergence of a training pass and an inference
            pass from the average of their predictions; ``label-smoothing``, which needs one pass:
            with weight ε the sum is (1 − ε) CE + ε CE(uniform).
        weight: factor of the loss, relative to the task loss; at least 0, and below 1 for label
            smoothing.
        backward: ``one`` back-propagates through one of the two passes, as the paper does; ``both``
            through both, and then the task loss is the mean over both passes, or with ``mixture``
            that of the pass without noise, as in HiddenCut's code.
        fraction: share of the sequences of a batch that take part, in (0, 1]; they are drawn anew
            in each step, and the loss keeps its expectation.
        every: the loss runs in each ``every``-th forward pass, with ``every`` times the weight.
        on: ``logits`` compares the predictions, ``representation`` the last layer's hidden states
            (the paper's choice for regression); ``auto`` chooses by the model's task.
        precision: number format of a pass without gradient: ``same`` as the model's, or
            ``bfloat16`` by autocast, which processors with such instructions compute several times
            faster than float32. It is a target that other noise has moved much further.
        target: what a pass is compared with: ``pass``, a second forward pass; ``history``, the
            example's own earlier predictions, which needs no second pass.
        momentum: share of the predictions kept before in their running mean, in [0, 1); 0 keeps
            the last one alone. Of ``history`` only.
        top: most likely tokens that are kept of a language model's earlier prediction, at least 1;
            the rest counts as one class. Of ``history`` only.
    """

    kind: str = "kl"
    weight: float = 1.0
    backward: str = "one"
    fraction: float = 1.0
    every: int = 1
    on: str = "auto"
    precision: str = "same"
    target: str = "pass"
    momentum: float = 0.0
    top: int = 16

    @property
    def name(self) -> str:
        """The loss in words."""
        if self.kind == SMOOTHING:
            return SMOOTHING
        return f"{self.kind} loss" if self.target == "pass" else f"temporal {self.kind} loss"

    @property
    def runs_twice(self) -> bool:
        """Whether a training step has a second forward pass."""
        return self.kind != SMOOTHING and self.target == "pass"


def consistency_faults(consistency: object) -> list[str]:
    """Return every broken rule of a loss, as one sentence each; ``None`` is no loss."""
    if consistency is None:
        return []
    if not isinstance(consistency, Consistency):
        return [f"consistency must be a Consistency or None, got {consistency!r}"]
    faults = []
    for name, allowed in (
        ("kind", KINDS),
        ("backward", ("one", "both")),
        ("on", ("auto", "logits", "representation")),
        ("precision", ("same", "bfloat16")),
        ("target", TARGETS),
    ):
        if not is_one_of(getattr(consistency, name), allowed):
            faults.append(not_one_of(f"consistency.{name}", getattr(consistency, name), allowed))
    if not is_number(consistency.weight) or not 0 <= consistency.weight < float("inf"):
        faults.append(
            f"consistency.weight must be a finite number of at least 0, got {consistency.weight!r}"
        )
    if not is_number(consistency.fraction) or not 0 < consistency.fraction <= 1:
        faults.append(f"consistency.fraction must be in (0, 1], got {consistency.fraction!r}")
    if not is_count(consistency.every) or consistency.every < 1:
        faults.append(f"consistency.every must be a whole number ≥ 1, got {consistency.every!r}")
    if not is_number(consistency.momentum) or not 0 <= consistency.momentum < 1:
        faults.append(
            f"consistency.momentum must be in [0, 1), got {consistency.momentum!r}; 0 compares with"
            " the last prediction alone"
        )
    if not is_count(consistency.top) or consistency.top < 1:
        faults.append(
            f"consistency.top must be a whole number ≥ 1, got {consistency.top!r}; 16 is usual"
        )
    return faults or _contradictions(consistency)


def _contradictions(consistency: Consistency) -> list[str]:
    """What each setting allows and another one does not."""
    faults = []
    parts = consistency.kind, consistency.backward
    if consistency.precision == "bfloat16" and consistency.backward == "both":
        faults.append(
            "consistency.precision='bfloat16' is for a pass without gradient, and backward='both'"
            " has none; use backward='one' or precision='same'"
        )
    if parts == ("js", "both"):
        faults.append(
            "consistency.backward='both' means nothing with kind='js', whose second pass is an"
            " inference pass without gradient; use backward='one'"
        )
    if parts == ("mixture", "both") and consistency.fraction < 1:
        faults.append(
            "consistency.fraction below 1 would train the task on those sequences alone with"
            " kind='mixture' and backward='both', whose task loss is that of the second pass; use"
            " fraction=1"
        )
    if not consistency.runs_twice:
        return faults + _one_pass_faults(consistency)
    return faults + [
        f"consistency.{name} is for target='history', got {name}={getattr(consistency, name)!r}"
        " with a second pass; leave it out or set target='history'"
        for name in ("momentum", "top")
        if getattr(consistency, name) != getattr(Consistency, name)
    ]


def _one_pass_faults(consistency: Consistency) -> list[str]:
    """What means nothing without a second forward pass, or with a target of another kind."""
    smooths = consistency.kind == SMOOTHING
    own = f"kind={SMOOTHING!r}" if smooths else "target='history'"
    fixed: dict[str, object] = {"backward": "one", "precision": "same"}
    fixed |= {"fraction": 1, "every": 1} if smooths else {"kind": "kl"}
    fixed |= {"target": "pass", "momentum": 0, "top": Consistency.top} if smooths else {}
    faults = [
        f"consistency.{name}={getattr(consistency, name)!r} means nothing with {own}, which has no"
        f" second pass; use {name}={value!r}"
        for name, value in fixed.items()
        if getattr(consistency, name) != value
    ]
    if consistency.on == "representation":
        faults.append(f"consistency.on='representation' means nothing with {own}; use 'logits'")
    if smooths and consistency.weight >= 1:
        faults.append(
            f"consistency.weight must be in [0, 1) with {own}, where it is the share of the uniform"
            f" distribution in the labels, got {consistency.weight!r}; 0.1 is usual"
        )
    return faults


def is_count(value: object) -> bool:
    """Whether a value is a whole number, which a truth value is not."""
    return isinstance(value, int) and not isinstance(value, bool)
