"""Two passes compared by hand, for the tests of the consistency loss."""

import dataclasses

import torch
from torch import Tensor

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from models import LAYER_STACK, kl_by_hand, lora_model, seeded, transformer_in

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)


def config(kind: str = "kl", **settings) -> DropoutConfig:
    return dataclasses.replace(NOISE, consistency=Consistency(kind, **settings))


def js_by_hand(one: Tensor, inference: Tensor) -> Tensor:
    p, q = one.double().softmax(-1), inference.double().softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def mixture_by_hand(one: Tensor, inference: Tensor) -> Tensor:
    p, q = one.double().softmax(-1), inference.double().softmax(-1)
    mean = (p + q) / 2
    return (mean * (mean.log() - (p.log() + q.log()) / 2)).sum(-1)


DIVERGENCES = {"kl": kl_by_hand, "js": js_by_hand, "mixture": mixture_by_hand}


class LastStates:
    def __init__(self, family: str, model) -> None:
        stack = transformer_in(model).get_submodule(LAYER_STACK[family])
        stack[-1].register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        self.states = output[0] if isinstance(output, tuple) else output


def divergence_by_hand(task: str, kind: str, one, two, inputs) -> Tensor:
    """Mean over sequences, over visible tokens then sequences, or over labelled tokens."""
    rows = DIVERGENCES[kind](one, two)
    if task == "classification":
        return rows.mean()
    if task == "regression":
        seen = inputs["attention_mask"].double()
        return ((rows * seen).sum(-1) / seen.sum(-1)).mean()
    labelled = inputs["labels"][:, 1:] != -100
    return rows[:, :-1][labelled].mean()


def two_passes_by_hand(family, task, kind, inputs, seed=0, both=False, **build):
    """Run both passes on a model without the consistency loss, one after the other.

    Returns the model, the task losses of the other and the trained pass, and the divergence.
    """
    model = lora_model(family, task, **build)
    hiddenkey.attach(model, NOISE)
    last = LastStates(family, model)

    def one_pass():
        output = model(**inputs)
        rows = last.states if task == "regression" else output.logits
        return output.loss, rows

    with seeded(seed):
        with torch.set_grad_enabled(both):
            if kind != "kl":
                model.eval()
            other_task, other = one_pass()
            model.train()
        task_loss, trained = one_pass()
    return model, other_task, task_loss, divergence_by_hand(task, kind, trained, other, inputs)


class Calls:
    """Records each run of the model's body: gradient mode, batch size, training flags, labels."""

    def __init__(self, family: str, model) -> None:
        self.seen: list[dict] = []
        layer = transformer_in(model).get_submodule(LAYER_STACK[family])[0]
        self._transformer = transformer_in(model)
        layer.register_forward_pre_hook(self._enter)

    def _enter(self, module, args) -> None:
        self.seen.append(
            {
                "grad": torch.is_grad_enabled(),
                "size": args[0].shape[0],
                "training": {m.training for m in self._transformer.modules()},
            }
        )
