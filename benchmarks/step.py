"""Time of one training step under each method, relative to plain LoRA.

    python benchmarks/step.py [--batch 32] [--tokens 64] [--steps 15] [--threads 2] [--output FILE]

The bundled encoder with LoRA (rank 8, key and value), AdamW, float32, padded random batches.
Methods take turns step by step, so that a slower moment of the machine meets all of them. Prints a
Markdown table of medians; FILE gets every measurement and the environment as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

import hiddenkey
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.quiet import quiet

WARM_UP = 3
BASELINE = "lora"


def variants() -> dict[str, Callable[[nn.Module], object]]:
    """What is done to a LoRA model before it trains, by name."""
    hiddenkey_config = hiddenkey.method("hiddenkey")

    def attach(config: str | hiddenkey.DropoutConfig) -> Callable[[nn.Module], object]:
        return lambda model: hiddenkey.attach(model, config)

    def with_loss(**changes: object) -> hiddenkey.DropoutConfig:
        loss = dataclasses.replace(hiddenkey_config.consistency, **changes)
        return dataclasses.replace(hiddenkey_config, consistency=loss)

    return {
        BASELINE: attach(BASELINE),
        "the model's own dropout": lambda model: None,
        "dropkey": attach("dropkey"),
        "dropattention": attach("dropattention"),
        "hiddencut-element": attach("hiddencut-element"),
        "hiddenkey-minus": attach("hiddenkey-minus"),
        "hiddenkey": attach("hiddenkey"),
        "hiddenkey, both branches": attach(with_loss(backward="both")),
        "hiddenkey, fraction 0.25": attach(with_loss(fraction=0.25)),
        "hiddenkey, every 4": attach(with_loss(every=4)),
    }


def build() -> nn.Module:
    """The bundled encoder with LoRA, the same for every variant."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        locate(BUNDLED_MODELS["minilm"]), num_labels=5
    )
    lora = LoraConfig(
        task_type="SEQ_CLS", target_modules=["key", "value"], r=8, lora_alpha=16, lora_dropout=0.0
    )
    return get_peft_model(model, lora).train()


def make_batch(batch: int, tokens: int) -> dict[str, torch.Tensor]:
    """Random ids; an eighth of the sequences each is padded by 0, 1/8 … 3/8 of the length."""
    torch.manual_seed(1)
    mask = torch.ones(batch, tokens, dtype=torch.long)
    for row in range(batch):
        mask[row, tokens - (row % 4) * tokens // 8 :] = 0
    return {
        "input_ids": torch.randint(1000, 20000, (batch, tokens)),
        "attention_mask": mask,
        "labels": torch.randint(0, 5, (batch,)),
    }


def measure(batch: int, tokens: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step of each variant."""
    cases = {}
    for name, prepare in variants().items():
        model = build()
        prepare(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        cases[name] = (model, torch.optim.AdamW(trained, lr=1e-4))
    data = make_batch(batch, tokens)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for step in range(WARM_UP + steps):
        for name, (model, optimizer) in cases.items():
            started = time.perf_counter()
            model(**data).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Median and mean step, and their ratios to the baseline, step by step.

    The mean counts for variants whose steps differ (``every``).
    """
    lines = [
        "| step | median ms | median ratio | quartiles | mean ratio |",
        "|---|---|---|---|---|",
    ]
    base = seconds[BASELINE]
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        mean = statistics.mean(own) / statistics.mean(base)
        median = statistics.median(own) * 1000
        lines.append(
            f"| {name} | {median:.0f} | {middle:.2f} | {low:.2f} to {high:.2f} | {mean:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="sequences")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per sequence")
    parser.add_argument("--steps", type=int, default=16, help="measured steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON file for every measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quiet()
    seconds = measure(arguments.batch, arguments.tokens, arguments.steps)
    print(f"{arguments.batch} x {arguments.tokens} tokens, {arguments.threads} threads")
    print(table(seconds))
    if arguments.output:
        record = {
            "arguments": {k: str(v) for k, v in vars(arguments).items()},
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.platform(),
            "seconds": seconds,
        }
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
