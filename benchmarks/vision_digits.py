"""Structured dropout in small vision transformers that are trained from scratch.

    python benchmarks/vision_digits.py [--output runs/vision_digits.json]
    python benchmarks/vision_digits.py --architectures vit swin --seeds 8
        --methods plain hiddenkey-minus hiddenkey --output runs/vision_swin.json

The other extreme of the library's first use: no pre-trained weights, no adapter, no language. A
ViT of four layers, 64 wide (17 tokens: 4 × 4 patches of 2 × 2 pixels, and the class token), or a
Swin of two stages of two layers (16 tokens 32 wide, then 4 tokens 64 wide, in windows of 2 × 2),
learns scikit-learn's 8 × 8 digits from a few hundred images, every weight trained. With
``--output`` each run is written as it ends, and the same command goes on from there.

Each method gets the same number of settings (learning rate, dropout rate) on the same seeds, judged
on other images of the training pool. The rule, fixed before the runs: highest mean accuracy after
the last step, then the lowest mean loss. Only then is each method trained with new seeds and looked
at once on the test images. A seed sets the first weights and the order of the batches, equal for
all methods. Needs scikit-learn, of which the digits are a part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hiddenkey
from harness import markdown, write_record
from hiddenkey import DropoutConfig
from hiddenkey.lab.evidence.comparisons import PairedComparison, adjust_holm, compare_paired
from vision_data import Images, batches, load_digits

PLAIN, OWN = "no dropout", "own dropout"
NOISE = {"DropKey": "dropkey", "HiddenCut": "hiddencut", "HiddenKey⁻": "hiddenkey-minus",
         "HiddenKey": "hiddenkey"}  # fmt: skip
METHODS = (PLAIN, OWN, *NOISE)
NAMES = {"plain": PLAIN, "own": OWN, **{name: label for label, name in NOISE.items()}}
ARCHITECTURES = ("vit", "swin")
LEARNING_RATES = (5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3)  # without a rate to choose
FEWER_LEARNING_RATES, RATES = (7e-4, 1.4e-3, 2.8e-3), (0.05, 0.1)
SIZES = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 64,
         "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128,
         "num_labels": 10}  # fmt: skip
SWIN = {"image_size": 8, "patch_size": 2, "num_channels": 1, "embed_dim": 32, "depths": [2, 2],
        "num_heads": [2, 4], "window_size": 2, "mlp_ratio": 2.0, "drop_path_rate": 0.0,
        "num_labels": 10}  # fmt: skip
FIRST_CHOICE_SEED = 1000
SAME_RUNS = ("train", "steps", "batch_size")


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


def build(setting: Setting, seed: int, architecture: str = "vit") -> Any:
    """Build the model; the same seed gives the same weights, whatever the method."""
    from transformers import AutoModelForImageClassification, SwinConfig, ViTConfig

    own = setting.rate if setting.method == OWN else 0.0
    rates = {"hidden_dropout_prob": own, "attention_probs_dropout_prob": own}
    config = SwinConfig(**SWIN, **rates) if architecture == "swin" else ViTConfig(**SIZES, **rates)
    torch.manual_seed(seed)
    return AutoModelForImageClassification.from_config(config)


def fit(
    setting: Setting,
    seed: int,
    train: Images,
    evaluation: Images,
    steps: int,
    batch_size: int,
    architecture: str = "vit",
) -> dict[str, float]:
    """Train one model and return accuracy and loss without noise, there and on what it learnt."""
    model = build(setting, seed, architecture).train()
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
    known = [method for method in METHODS if any(row["method"] == method for row in rows)]
    values = {m: [row[metric] for row in rows if row["method"] == m] for m in known}
    return adjust_holm({
        method: compare_paired(own, values[baseline], larger_is_better=metric == "accuracy")
        for method, own in values.items()
        if method != baseline
    })  # fmt: skip


def report(chosen: Mapping[str, Setting], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the test results as Markdown tables: each method, then paired differences."""
    table = []
    for method in chosen:
        own = [row for row in rows if row["method"] == method]
        summaries = [_mean_and_deviation([row[name] for row in own])
                     for name in ("accuracy", "loss", "train_loss")]  # fmt: skip
        setting = chosen[method]
        table.append([method, f"{setting.learning_rate:g}", f"{setting.rate:g}", *summaries])
    columns = ["method", "learning rate", "rate", "accuracy", "loss", "training loss"]
    parts = [markdown(columns, table)]
    for baseline in (method for method in (PLAIN, OWN) if method in chosen):
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
    bounds = found.interval  # none where all of a few differences are 0
    shown = "no interval" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
    return f"{found.difference:+.4f} ({shown}), {found.p_adjusted:.3f}, {found.verdict}"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=["vit"])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        help="plain is always among them",
    )
    parser.add_argument("--train", type=int, default=200, help="training images")
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps of a run")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--choice-seeds", type=int, default=2, help="runs of each setting")
    parser.add_argument("--seeds", type=int, default=10, help="runs on the test images, 2 or more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, help="JSON file for every number; runs in it are kept"
    )
    arguments = parser.parse_args()
    arguments.methods = [name for name in NAMES if name in ("plain", *arguments.methods)]
    return arguments


class Runs:
    """The rows of all runs; those that an earlier call of the same command wrote are kept.

    Args:
        arguments: of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.rows: list[dict[str, Any]] = []
        self._arguments = arguments
        path = arguments.output
        if path is not None and path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            earlier = {name: record["arguments"].get(name) for name in SAME_RUNS}
            if earlier != {name: getattr(arguments, name) for name in SAME_RUNS}:
                raise SystemExit(f"{path} is of other runs ({earlier}); name another --output")
            self.rows = record["rows"]

    def run(
        self,
        architecture: str,
        stage: str,
        setting: Setting,
        seed: int,
        parts: tuple[Images, Images],
    ) -> dict[str, Any]:
        """Return the row of a run, trained now if it is not there."""
        key = {"architecture": architecture, "stage": stage, "seed": seed,
               **dataclasses.asdict(setting)}  # fmt: skip
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        arguments = self._arguments
        values = fit(setting, seed, *parts, arguments.steps, arguments.batch_size, architecture)
        self.rows.append({**key, **values})
        write_record(arguments.output, arguments, self.rows)
        return self.rows[-1]


def judge(
    architecture: str, runs: Runs, parts: tuple[Images, Images, Images], arguments: Any
) -> str:
    """Let each method choose, train the chosen ones with new seeds, and return the tables."""
    train, validation, test = parts
    labels = [NAMES[name] for name in arguments.methods]
    chosen = choose([
        runs.run(architecture, "choice", setting, FIRST_CHOICE_SEED + index, (train, validation))
        for index in range(arguments.choice_seeds)
        for method in labels
        for setting in grid(method)
    ])  # fmt: skip
    rows = [
        runs.run(architecture, "test", setting, seed, (train, test))
        for seed in range(arguments.seeds)
        for setting in chosen.values()
    ]
    return report(chosen, rows)


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    parts = load_digits(arguments.train)
    runs = Runs(arguments)
    sizes = [len(part.classes) for part in parts]
    print(
        f"{sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images,"
        f" {arguments.steps} steps of {arguments.batch_size};"
        f" each method: {len(grid(PLAIN))} settings × {arguments.choice_seeds} seeds to choose,"
        f" {arguments.seeds} seeds on the test images\n",
        flush=True,
    )
    for architecture in arguments.architectures:
        print(f"### {architecture}\n\n{judge(architecture, runs, parts, arguments)}\n", flush=True)


if __name__ == "__main__":
    main()
