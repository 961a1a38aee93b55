"""Structured dropout in a small vision transformer that is trained from scratch.

    python benchmarks/vision_digits.py [--output runs/vision_digits.json]

The other extreme of the library's first use: no pre-trained weights, no adapter, no language. A
ViT of four layers, 64 wide (17 tokens: 4 × 4 patches of 2 × 2 pixels, and the class token), learns
scikit-learn's 8 × 8 digits from a few hundred images, every weight trained.

Each method gets the same number of settings (learning rate, dropout rate) on the same seeds, judged
on other images of the training pool. The rule, fixed before the runs: highest mean accuracy after
the last step, then the lowest mean loss. Only then is each method trained with new seeds and looked
at once on the test images. A seed sets the first weights and the order of the batches, equal for
all methods. Needs scikit-learn, of which the digits are a part.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hiddenkey
from harness import markdown, write_record
from hiddenkey import DropoutConfig
from hiddenkey.lab.evidence.comparisons import PairedComparison, adjust_holm, compare_paired

PLAIN, OWN = "no dropout", "own dropout"
NOISE = {"DropKey": "dropkey", "HiddenCut": "hiddencut", "HiddenKey⁻": "hiddenkey-minus",
         "HiddenKey": "hiddenkey"}  # fmt: skip
METHODS = (PLAIN, OWN, *NOISE)
LEARNING_RATES = (5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3)  # without a rate to choose
FEWER_LEARNING_RATES, RATES = (7e-4, 1.4e-3, 2.8e-3), (0.05, 0.1)
SIZES = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 64,
         "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128,
         "num_labels": 10}  # fmt: skip
FIRST_CHOICE_SEED = 1000


@dataclass(frozen=True)
class Images:
    """Pixels in [-1, 1] ``[images, 1, 8, 8]`` and classes ``[images]``."""

    pixels: Tensor
    classes: Tensor

    def __getitem__(self, rows: Tensor) -> Images:
        return Images(self.pixels[rows], self.classes[rows])


@dataclass(frozen=True)
class Setting:
    """What one run is trained with.

    Attributes:
        method: one of ``METHODS``.
        learning_rate: largest learning rate of AdamW.
        rate: dropout rate of all positions of the method; 0 without dropout.
    """

    method: str
    learning_rate: float
    rate: float = 0.0

    def config(self) -> DropoutConfig:
        """Return what hiddenkey attaches; the model's own dropout is on for that method alone."""
        if self.method in NOISE:
            return hiddenkey.method(NOISE[self.method], rate=self.rate)
        plain = hiddenkey.method("lora")
        return dataclasses.replace(plain, keep_model_dropout=self.method == OWN)


def grid(method: str) -> list[Setting]:
    """Return the settings a method may choose from, as many for each."""
    if method == PLAIN:
        return [Setting(method, learning_rate) for learning_rate in LEARNING_RATES]
    return [Setting(method, lr, rate) for lr in FEWER_LEARNING_RATES for rate in RATES]


def load_digits(train: int) -> tuple[Images, Images, Images]:
    """Return training, validation and test images; classes are spread evenly over the three.

    The first 1,000 images of a fixed order are the training pool: ``train`` of them are trained on,
    the others judge the settings. The remaining 797 are the test images.
    """
    from sklearn.datasets import load_digits as load

    pixels, classes = load(return_X_y=True)
    images = Images(
        torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(classes)
    )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    rank = torch.empty(len(classes), dtype=torch.long)  # of an image within its class
    for label in range(10):
        own = order[images.classes[order] == label]
        rank[own] = torch.arange(len(own))
    in_turns = order[rank[order].argsort(stable=True)]
    return images[in_turns[:train]], images[in_turns[train:1000]], images[in_turns[1000:]]


def build(setting: Setting, seed: int) -> Any:
    """Build the model; the same seed gives the same weights, whatever the method."""
    from transformers import ViTConfig, ViTForImageClassification

    own = setting.rate if setting.method == OWN else 0.0
    torch.manual_seed(seed)
    return ViTForImageClassification(
        ViTConfig(**SIZES, hidden_dropout_prob=own, attention_probs_dropout_prob=own)
    )


def fit(
    setting: Setting, seed: int, train: Images, evaluation: Images, steps: int, batch_size: int
) -> dict[str, float]:
    """Train one model and return accuracy and loss without noise, there and on what it learnt."""
    model = build(setting, seed).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, setting.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    with hiddenkey.attach(model, setting.config()):
        for rows in batches(len(train.classes), batch_size, steps, seed):
            batch = train[rows]
            model(pixel_values=batch.pixels, labels=batch.classes).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        model.eval()
        found = evaluate(model, evaluation)
        return found | {f"train_{name}": x for name, x in evaluate(model, train).items()}


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield row numbers ``[size]``, every row once before any comes again; no noise moves them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=generator)])
        yield rows[:size]
        rows = rows[size:]


@torch.no_grad()
def evaluate(model: Any, images: Images) -> dict[str, float]:
    """Return accuracy and mean cross-entropy."""
    output = model(pixel_values=images.pixels, labels=images.classes)
    right = (output.logits.argmax(-1) == images.classes).float()
    return {"accuracy": right.mean().item(), "loss": output.loss.item()}


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, Setting]:
    """Return each method's best setting by the rule above."""
    scores: dict[Setting, list[tuple[float, float]]] = {}
    for row in rows:
        setting = Setting(row["method"], row["learning_rate"], row["rate"])
        scores.setdefault(setting, []).append((row["accuracy"], -row["loss"]))
    means = {setting: tuple(map(statistics.mean, zip(*own, strict=True)))
             for setting, own in scores.items()}  # fmt: skip
    return {
        method: max((s for s in means if s.method == method), key=lambda s: means[s])
        for method in dict.fromkeys(setting.method for setting in means)
    }


def compared(
    rows: Sequence[Mapping[str, Any]], metric: str, baseline: str
) -> dict[str, PairedComparison]:
    """Compare the methods with a baseline, seed by seed, all tests corrected together."""
    values = {m: [row[metric] for row in rows if row["method"] == m] for m in METHODS}
    return adjust_holm({
        method: compare_paired(own, values[baseline], larger_is_better=metric == "accuracy")
        for method, own in values.items()
        if method != baseline
    })  # fmt: skip


def report(chosen: Mapping[str, Setting], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the test results as Markdown tables: each method, then paired differences."""
    table = []
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        summaries = [_mean_and_deviation([row[name] for row in own])
                     for name in ("accuracy", "loss", "train_loss")]  # fmt: skip
        setting = chosen[method]
        table.append([method, f"{setting.learning_rate:g}", f"{setting.rate:g}", *summaries])
    columns = ["method", "learning rate", "rate", "accuracy", "loss", "training loss"]
    parts = [markdown(columns, table)]
    for baseline in (PLAIN, OWN):
        accuracy, loss = (compared(rows, metric, baseline) for metric in ("accuracy", "loss"))
        differences = [
            [method, _interval(accuracy[method]), _interval(loss[method])] for method in accuracy
        ]
        what = "(interval after Holm), p, verdict"
        columns = [f"minus {baseline}", f"accuracy {what}", f"loss {what}"]
        parts.append(markdown(columns, differences))
    return "\n\n".join(parts)


def _mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _interval(found: PairedComparison) -> str:
    return (
        f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}),"
        f" {found.p_adjusted:.3f}, {found.verdict}"
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=200, help="training images")
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps of a run")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--choice-seeds", type=int, default=2, help="runs of each setting")
    parser.add_argument("--seeds", type=int, default=10, help="runs on the test images, 2 or more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    train, validation, test = load_digits(arguments.train)
    found: list[dict[str, Any]] = []

    def run(stage: str, setting: Setting, seed: int, evaluation: Images) -> None:
        values = fit(setting, seed, train, evaluation, arguments.steps, arguments.batch_size)
        found.append({"stage": stage, "seed": seed, **dataclasses.asdict(setting), **values})

    for index in range(arguments.choice_seeds):
        for method in METHODS:
            for setting in grid(method):
                run("choice", setting, FIRST_CHOICE_SEED + index, validation)
    chosen = choose(found)
    for seed in range(arguments.seeds):
        for setting in chosen.values():
            run("test", setting, seed, test)
    print(
        f"{len(train.classes)} training, {len(validation.classes)} validation and"
        f" {len(test.classes)} test images, {arguments.steps} steps of {arguments.batch_size};"
        f" each method: {len(grid(PLAIN))} settings × {arguments.choice_seeds} seeds to choose,"
        f" {arguments.seeds} seeds on the test images\n"
    )
    print(report(chosen, [row for row in found if row["stage"] == "test"]))
    write_record(arguments.output, arguments, found)


if __name__ == "__main__":
    main()
