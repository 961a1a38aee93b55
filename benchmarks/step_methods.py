"""The methods that step.py measures: this library's, and what else people train with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

import hiddenkey
from hiddenkey.anatomy import text_config, transformer_of
from hiddenkey.attachment import model_dropout
from hiddenkey.framework.compensation.kl import bidirectional_kl
from hiddenkey.framework.inference import Inference
from step_models import IGNORED

BASELINE = "lora"
LORA_DROPOUT = 0.1

Inputs = dict[str, Tensor]


def own_loss(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's own loss, to which an attachment has added its own."""
    return model(**inputs).loss


def r_drop_by_doubling(model: nn.Module, inputs: Inputs) -> Tensor:
    """R-Drop as its users write it: the batch twice, KL in both directions, gradient through both.

    The divergence is a mean over sequences, or over labelled tokens, like the task loss.
    """
    task, one, two, labels = _doubled(model, inputs)
    ignored = (labels == IGNORED).unsqueeze(-1)
    forward = F.kl_div(F.log_softmax(one, -1), F.softmax(two, -1), reduction="none")
    backward = F.kl_div(F.log_softmax(two, -1), F.softmax(one, -1), reduction="none")
    both = forward.masked_fill(ignored, 0).sum() + backward.masked_fill(ignored, 0).sum()
    return task + 0.5 * both / (~ignored).sum()


def side_by_side(backward: Literal["one", "both"]) -> Callable[[nn.Module, Inputs], Tensor]:
    """HiddenKey's loss from both passes at once, as one batch of doubled size.

    The library runs one pass after the other. Here autograd goes through both halves in either
    case: with ``one`` nothing but zeros reaches the second half.
    """

    def loss(model: nn.Module, inputs: Inputs) -> Tensor:
        _, one, two, labels = _doubled(model, inputs)
        counted = labels != IGNORED
        one, two, labels = one[counted], two[counted], labels[counted]
        if backward == "one":
            return F.cross_entropy(one, labels) + bidirectional_kl(one, two.detach()).mean()
        task = (F.cross_entropy(one, labels) + F.cross_entropy(two, labels)) / 2
        return task + bidirectional_kl(one, two).mean()

    return loss


def _doubled(model: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the batch twice in one call; the task loss of both, either half's logits, the labels."""
    output = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
    logits, labels = output.logits, inputs["labels"]
    if labels.dim() == 2:  # a language model predicts the token that follows
        logits, labels = logits[:, :-1], labels[:, 1:]
    one, two = logits.float().chunk(2)
    return output.loss, one, two, labels


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        label: what a table calls it.
        prepare: what is done to a LoRA model before it trains.
        lora_dropout: PEFT's own.
        loss: of one training step.
        cycle: its steps repeat after so many.
        second: whether gradient flows through the second pass; ``None`` where there is none.
        share: how much of a second pass an average step needs at least.
        used: which mean of the weights is taken after each step; ``None``: none is.
    """

    label: str
    prepare: Callable[[PeftModel], object]
    lora_dropout: float = 0.0
    loss: Callable[[nn.Module, Inputs], Tensor] = own_loss
    cycle: int = 1
    second: Literal["no gradient", "gradient"] | None = None
    share: float = 1.0
    used: Inference | None = None

    def bound(self, forward: float, backward: float, no_grad: float) -> float | None:
        """The least ratio to LoRA's step, from the times of LoRA's passes."""
        if self.second is None:
            return None
        trained = forward + backward
        return 1 + self.share * (trained if self.second == "gradient" else no_grad) / trained


def variants(own_dropout: str) -> dict[str, Variant]:
    """All of them, the baseline first; ``own_dropout`` says where the model's own dropout acts."""
    exact = {"second": "no gradient"}
    rows = {
        BASELINE: Variant("LoRA, no dropout", _attach(BASELINE)),
        "lora-no-hooks": Variant("the same without this library's hooks", _switch_off),
        "lora-average": Variant(
            "LoRA, its weights averaged", _attach(BASELINE), used=Inference("average", part=1)
        ),
        "lora-dropout": Variant("LoRA's own dropout, 0.1", _attach(BASELINE), LORA_DROPOUT),
        "own-dropout": Variant(f"the model's own dropout, 0.1 ({own_dropout})", _leave),
        "hiddencut": Variant("HiddenCut, element", _attach("hiddencut-element")),
        "dropkey": Variant("DropKey, column", _attach("dropkey-column")),
        "dropattention": Variant("DropAttention, column", _attach("dropattention-column")),
        "update-dropout": Variant("dropout on the update", _attach("update-dropout")),
        "droplora": Variant("DropLoRA", _attach("droplora")),
        "two-sided-lora-dropout": Variant(
            "two-sided LoRA dropout", _attach("two-sided-lora-dropout")
        ),
        "coto": Variant("CoTo, at its mean rate", _attach(hiddenkey.method("coto", rate=0.34))),
        "hiddenkey-minus": Variant("HiddenKey⁻", _attach("hiddenkey-minus")),
        "hiddenkey": Variant("HiddenKey, one branch", _attach("hiddenkey"), **exact),
        "hiddenkey-both": Variant(
            "HiddenKey, both branches", _with_loss(backward="both"), second="gradient"
        ),
    }
    for backward in ("one", "both"):
        rows[f"hiddenkey-side-by-side-{backward}"] = Variant(
            f"HiddenKey side by side, {backward} branch{'es' * (backward == 'both')}",
            _attach("hiddenkey-minus"),
            loss=side_by_side(backward),
            second="gradient",
        )
    rows["hiddenkey-bfloat16"] = Variant(
        "HiddenKey, second pass in bfloat16", _with_loss(precision="bfloat16")
    )
    for every in (2, 4):
        rows[f"hiddenkey-every-{every}"] = Variant(
            f"HiddenKey, every {every}",
            _with_loss(every=every),
            cycle=every,
            share=1 / every,
            **exact,
        )
    for fraction in (0.5, 0.25):
        rows[f"hiddenkey-fraction-{fraction}"] = Variant(
            f"HiddenKey, fraction {fraction}",
            _with_loss(fraction=fraction),
            share=fraction,
            **exact,
        )
    return rows | {
        # the layers below the noise would be the same in both passes
        "hiddenkey-top-half": Variant(
            "HiddenKey, top half of the layers", _attach_top_half, share=0.5, **exact
        ),
        "hiddenkey-js": Variant("HiddenKey with JS", _attach("hiddenkey-js"), **exact),
        "temporal": Variant("temporal consistency, no noise", _attach("temporal")),
        "hiddenkey-temporal": Variant(
            "HiddenKey's noise, temporal consistency", _attach("hiddenkey-temporal")
        ),
        "label-smoothing": Variant("label smoothing", _attach("label-smoothing")),
        "r-drop": Variant(
            f"R-Drop by doubling, the model's own dropout ({own_dropout})",
            _leave,
            loss=r_drop_by_doubling,
            second="gradient",
        ),
    }


def _attach(config: str | hiddenkey.DropoutConfig) -> Callable[[PeftModel], object]:
    return lambda model: hiddenkey.attach(model, config)


def _with_loss(**changes: object) -> Callable[[PeftModel], object]:
    config = hiddenkey.method("hiddenkey")
    loss = dataclasses.replace(config.consistency, **changes)
    return _attach(dataclasses.replace(config, consistency=loss))


def _attach_top_half(model: PeftModel) -> object:
    layers = text_config(transformer_of(model)).num_hidden_layers
    top = tuple(range(layers // 2, layers))
    return hiddenkey.attach(model, dataclasses.replace(hiddenkey.method("hiddenkey"), layers=top))


def _switch_off(model: PeftModel) -> object:
    return model_dropout.switch_off(transformer_of(model))


def _leave(model: PeftModel) -> object:
    """Train the model as it was built, its own dropout on."""
    return None


NAMES = tuple(variants(""))
