"""Checks that the installed torch, transformers and PEFT serve the library.

``python maintenance/environment_checks.py`` runs them in about half a minute, on tiny models, and
needs nothing but these three and accelerate. ``docs/COMPATIBILITY.md`` is made of what it prints
with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch

import hiddenkey
from tiny_models import CLASSES, FIRST_WORD, VOCABULARY, tiny_model

LIBRARIES: Final = ("torch", "transformers", "peft", "accelerate")
_RATE: Final = 0.3
_TOKENS, _VISIBLE, _SEQUENCES = 20, 10, 8


@dataclass(frozen=True)
class Subject:
    """A tiny model that is checked.

    Attributes:
        kind: its architecture.
        targets: the modules that LoRA adapts; none: an image classifier, trained as a whole.
        task: PEFT's name of its task.
        attention: the attention implementation; ``None``: the one that transformers chooses.
    """

    kind: str
    targets: tuple[str, ...]
    task: str = "CAUSAL_LM"
    attention: str | None = None


_KEYS_AND_VALUES: Final = ("k_proj", "v_proj")
SUBJECTS: Final = {
    "bert": Subject("bert", ("key", "value"), "SEQ_CLS", "sdpa"),
    "llama": Subject("llama", _KEYS_AND_VALUES, attention="sdpa"),
    "llama eager": Subject("llama", _KEYS_AND_VALUES, attention="eager"),
    "gpt2": Subject("gpt2", ("c_attn",)),
    "gemma2": Subject("gemma2", _KEYS_AND_VALUES, attention="eager"),
    "vit": Subject("vit", (), "IMAGE"),
}


def build(name: str) -> Any:
    """Build one of :data:`SUBJECTS` in training mode, equal each time, with LoRA on text models."""
    from peft import LoraConfig, get_peft_model

    subject = SUBJECTS[name]
    torch.manual_seed(0)
    model = tiny_model(subject.kind, subject.task, attention=subject.attention)
    if not subject.targets:
        return model
    lora = LoraConfig(
        task_type=subject.task,
        target_modules=list(subject.targets),
        init_lora_weights=False,
        fan_in_fan_out="c_attn" in subject.targets,
    )
    return get_peft_model(model, lora).train()


def inputs_for(name: str) -> dict[str, Any]:
    """Return a batch: half of each text is padding on its right."""
    source = torch.Generator().manual_seed(1)
    classes = torch.arange(_SEQUENCES) % CLASSES
    if not SUBJECTS[name].targets:
        pixels = torch.rand(_SEQUENCES, 3, 8, 8, generator=source)
        return {"pixel_values": pixels, "labels": classes}
    tokens = torch.randint(FIRST_WORD, VOCABULARY, (_SEQUENCES, _TOKENS), generator=source)
    visible = (torch.arange(_TOKENS) < _VISIBLE).expand(_SEQUENCES, -1)
    batch = {"input_ids": tokens * visible, "attention_mask": visible.long()}
    is_causal = SUBJECTS[name].task == "CAUSAL_LM"
    return {**batch, "labels": tokens.where(visible, -100) if is_causal else classes}


def check_import() -> None:
    """All public names can be loaded."""
    for name in hiddenkey.__all__:
        getattr(hiddenkey, name)


def check_attach(name: str) -> None:
    """Both positions of HiddenKey are found in both layers."""
    with _attached(build(name)) as attachment:
        found = {(site.position, site.layer) for site in attachment.sites}
        assert found == {(p, n) for p in ("attention_logits", "hidden") for n in (0, 1)}, found


def check_evaluation(name: str) -> None:
    """Outputs in evaluation are bit-equal to those without the library."""
    model, batch = build(name).eval(), inputs_for(name)
    with torch.no_grad():
        expected = model(**batch).logits
        with _attached(model):
            assert torch.equal(model(**batch).logits, expected), "outputs differ"


def check_step(name: str) -> None:
    """A HiddenKey step: parts of the loss add up, drop rates are met, gradients are finite."""
    model = build(name)
    with _attached(model) as attachment:
        loss = model(**inputs_for(name)).loss
        loss.backward()
        parts, rates = attachment.losses, attachment.shares()
    assert parts.keys() == {"task", "consistency"}, parts
    assert parts["consistency"] > 0, parts
    assert abs(sum(parts.values()) - float(loss)) < 1e-4, (parts, float(loss))
    assert all(abs(rate - _RATE) < 0.15 for rate in rates.values()), rates
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients, "no gradient"
    assert all(bool(gradient.isfinite().all()) for gradient in gradients), (
        "gradients are not finite"
    )


def check_padding(name: str) -> None:
    """A span drops 30 % of each text's visible tokens, and no padding."""
    if not SUBJECTS[name].targets:
        return
    model, dropped = build(name), []
    with _attached(
        model, hiddenkey.DropoutConfig((hiddenkey.Drop("hidden", "span", _RATE),))
    ) as attachment:
        block = model.get_base_model().get_submodule(attachment.sites[0].name)
        block.register_forward_hook(lambda *call: dropped.append((call[2] == 0).all(-1)))
        model(**inputs_for(name))
    per_text = dropped[0][:, :_VISIBLE].sum(-1)
    assert (per_text == round(_RATE * _VISIBLE)).all(), f"{per_text.tolist()} of {_VISIBLE} tokens"
    assert not dropped[0][:, _VISIBLE:].any(), "padding was dropped"


def check_checkpointing(name: str) -> None:
    """Gradients with activation checkpointing equal those without."""
    found = []
    for checkpointing in (False, True):
        model = build(name)
        if checkpointing:
            if SUBJECTS[name].targets:
                model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with _attached(model):
            torch.manual_seed(2)
            model(**inputs_for(name)).loss.backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for without, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(without, recomputed, rtol=1e-4, atol=1e-6)


def check_detach(name: str) -> None:
    """A detached model has no trace of the library, and trains as one that never had it."""
    model, fresh = build(name), build(name)
    with _attached(model):
        model(**inputs_for(name)).loss.backward()
    traces = [n for n, m in model.named_modules() if any("hiddenkey" in key for key in vars(m))]
    assert not traces, traces
    losses = []
    for one in (model, fresh):
        torch.manual_seed(3)
        losses.append(float(one(**inputs_for(name)).loss))
    assert losses[0] == losses[1], losses


def check_trainer(name: str) -> None:
    """Transformers' Trainer logs the parts of the loss and the observed drop rates."""
    from transformers import Trainer, TrainingArguments

    from hiddenkey.integrations.trainer import watch

    model, batch = build(name), inputs_for(name)
    rows = [{key: value[row] for key, value in batch.items()} for row in range(_SEQUENCES)]
    with tempfile.TemporaryDirectory() as folder, _attached(model) as attachment:
        arguments = TrainingArguments(
            folder, max_steps=2, logging_steps=1, report_to="none", use_cpu=True,
            per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        watch(trainer, attachment)
        trainer.train()
        logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == 2, trainer.state.log_history
    for line in logged:
        assert line["consistency_loss"] > 0, line
        assert abs(line["dropped/hidden"] - _RATE) < 0.15, line


def check_adapter(name: str) -> None:
    """An adapter that was saved while attached loads into a plain model and agrees."""
    from peft import PeftModel

    if not SUBJECTS[name].targets:
        return
    model, batch = build(name), inputs_for(name)
    with tempfile.TemporaryDirectory() as folder:
        with _attached(model):
            model(**batch).loss.backward()
            model.save_pretrained(folder)
        plain = build(name).unload()
        loaded = PeftModel.from_pretrained(plain, folder).eval()
        with torch.no_grad():
            assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits), "they differ"


CHECKS: Final[dict[str, Callable[[str], None]]] = {
    "attach": check_attach,
    "evaluation": check_evaluation,
    "HiddenKey step": check_step,
    "padding": check_padding,
    "checkpointing": check_checkpointing,
    "detach": check_detach,
    "Trainer": check_trainer,
    "adapter": check_adapter,
}


def run() -> dict[str, Any]:
    """Run every check.

    Returns:
        ``versions`` by library; ``failures`` by check, then by model: one line each.
    """
    failures: dict[str, dict[str, str]] = {"import": {}, **{check: {} for check in CHECKS}}
    if fault := _fault(check_import):
        failures["import"]["all"] = fault
        return {"versions": versions(), "failures": failures}
    for check, function in CHECKS.items():
        for name in SUBJECTS:
            with redirect_stdout(sys.stderr):  # Trainer prints its log
                fault = _fault(function, name)
            if fault:
                failures[check][name] = fault
    return {"versions": versions(), "failures": failures}


def versions() -> dict[str, str]:
    """Return the installed version of each library, without what its build adds."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library).partition("+")[0]
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def _fault(check: Callable[..., None], *arguments: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(*arguments)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).strip().splitlines() or [""])[0][:160]
        return f"{type(error).__name__}: {first} ({where.name})"
    return None


def _attached(model: Any, config: hiddenkey.DropoutConfig | None = None) -> hiddenkey.Attachment:
    return hiddenkey.attach(model, config or hiddenkey.method("hiddenkey", rate=_RATE))


def main() -> int:
    """Print one line for each check; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    asked = parser.parse_args()
    found = run()
    if asked.json:
        print(json.dumps(found))
    else:
        print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
        for check, failed in found["failures"].items():
            print(f"{check:<15}", "; ".join(f"{n}: {why}" for n, why in failed.items()) or "ok")
    return int(any(found["failures"].values()))


if __name__ == "__main__":
    sys.exit(main())
