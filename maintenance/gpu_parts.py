"""The commands that ``make gpu`` runs, each with its time limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ATTENTION_CASES: Final = (
    *("dropkey", "dropkey-span", "dropattention", "key-mask", "value-column"),
    *("flex", "value-column-flash", "key-mask-efficient"),
)
STEP_VARIANTS: Final = (
    *("lora", "own-dropout", "dropkey", "dropattention", "hiddenkey-minus", "hiddenkey"),
)


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: of its files, and for ``--only``.
        title: what it is about.
        command: what runs, after the interpreter; ``{output}`` stands for the path of its record.
        limit: seconds.
        is_test: its record is JUnit's, and not a benchmark's.
    """

    name: str
    title: str
    command: tuple[str, ...]
    limit: float
    is_test: bool = False


def parts(device: str) -> list[Part]:
    """Return what runs, the tests first; the limits add up to less than eight minutes."""
    on = ("--device", device)
    half = ("--dtype", "bfloat16")
    found = [
        Part(
            "tests",
            "Tests marked cuda",
            ("-m", "pytest", "tests/cuda", "-m", "cuda", "-q", "--junitxml={output}"),
            120,
            is_test=True,
        )
    ]
    attention = ("benchmarks/attention.py", *on, *half, "--no-memory", "--limit-gib", "2")
    keys = ("--keys", "512", "1024", "2048", "4096", "8192", "16384")
    few = ("--head-dims", "128", "--batch", "1", "--heads", "32", "--turns", "20")
    cases = ("--cases", *ATTENTION_CASES, "--seconds", "0.5")
    found += [
        Part(
            f"attention-{layout}-{kind}",
            f"Attention, {layout}, {kind}",
            (*attention, *keys, *few, *cases, "--layouts", layout, "--kinds", kind,
             "--output", "{output}"),
            40,
        )
        for layout in ("mha", "gqa")
        for kind in ("causal", "encoder")
    ]  # fmt: skip
    step = ("benchmarks/step.py", *on, *half, "--turns", "10", "--variants", *STEP_VARIANTS)
    memory = ("--memory", "lora", "hiddenkey")
    found += [
        Part(f"step-{model}", f"A training step, {model}",
             (*step, *memory, "--models", model, "--output", "{output}"), limit)
        for model, limit in (("roberta-large", 35), ("gpt2-medium", 35), ("llama2-7b", 70))
    ]  # fmt: skip
    size = ("--tokens", "8192", "--hidden", "4096", "--vocabulary", "128256", "--repeats", "5")
    found.append(
        Part(
            "lm-loss",
            "Loss of a language model",
            ("benchmarks/lm_loss.py", *on, *half, *size, "--output", "{output}"),
            50,
        )
    )
    return found
