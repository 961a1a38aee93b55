"""What the demonstration shows: stored runs → rows → table and picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.run.result import Result

BASELINE: Final = "lora"
_COLOURS: Final = {"lora": "#0072B2", "hiddenkey": "#D55E00"}  # Okabe and Ito: colour-blind-safe


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class Row:
    """One method over its seeds.

    Attributes:
        method: its name.
        seeds: how many.
        best: the main metric at its best evaluation.
        last: the main metric at the last evaluation.
        loss_best: evaluation loss at its lowest.
        loss_last: evaluation loss at the last evaluation.
        gap: main metric on training minus on evaluation examples, at the last evaluation.
        cost: seconds per step relative to the baseline's, median over seeds.
    """

    method: str
    seeds: int
    best: Spread
    last: Spread
    loss_best: Spread
    loss_last: Spread
    gap: Spread
    cost: float


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, paired by seed.

    Attributes:
        measure: what is compared.
        mean: mean difference.
        low: lower end of the 95 % t interval.
        high: its upper end.
    """

    measure: str
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        text = (
            f"{self.measure}: {self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}"
        )
        return (
            text if self.low > 0 or self.high < 0 else f"{text}, which holds 0: no clear difference"
        )


def tabulate(results: Sequence[Result]) -> list[Row]:
    """Summarise the runs of each method; the baseline comes first."""
    methods = sorted({result.method for result in results}, key=lambda name: name != BASELINE)
    seconds = {
        method: statistics.median(r.seconds_per_step for r in results if r.method == method)
        for method in methods
    }
    return [
        _row([r for r in results if r.method == method], seconds[method] / seconds[methods[0]])
        for method in methods
    ]


def differences(results: Sequence[Result], method: str) -> list[Difference]:
    """Compare a method with the baseline seed by seed (paired t interval, scipy)."""
    own = {r.seed: r for r in results if r.method == method}
    base = {r.seed: r for r in results if r.method == BASELINE}
    seeds = sorted(own.keys() & base.keys())
    name = next(iter(own.values())).main_metric
    measures: dict[str, Callable[[Result], float | None]] = {
        f"{name}, last epoch": lambda result: result.metrics[name].last,
        f"{name}, best epoch": lambda result: result.metrics[name].best,
        "evaluation loss, last epoch": lambda result: result.eval_loss.last,
    }
    return [
        _difference(what, [value(own[s]) for s in seeds], [value(base[s]) for s in seeds])
        for what, value in measures.items()
    ]


def write_summary(folder: Path, rows: Sequence[Row], found: Sequence[Difference]) -> Path:
    """Write the table and the differences as ``summary.json``."""
    path = folder / "summary.json"
    text = json.dumps(
        {"rows": [asdict(r) for r in rows], "differences": [asdict(d) for d in found]}
    )
    half = path.with_name(".summary.json")
    half.write_text(text + "\n", encoding="utf-8")
    half.replace(path)
    return path


def draw_curves(folders: Mapping[str, Sequence[Path]], target: Path) -> None:
    """Draw the evaluation metric, and both losses, over the epochs: one line for each method.

    Args:
        folders: run folders by method, one for each seed.
        target: the picture; its ending names the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for method, runs in folders.items():
        lines = [_read_lines(run) for run in runs]
        epochs = [line["epoch"] for line in lines[0]]
        _curve(left, epochs, lines, "eval_accuracy", method, "-")
        _curve(right, epochs, lines, "eval_loss", f"{method}, evaluation", "-")
        _curve(right, epochs, lines, "train_sample_loss", f"{method}, training", "--")
    left.set(xlabel="epoch", ylabel="accuracy on evaluation headlines")
    right.set(xlabel="epoch", ylabel="loss without noise")
    seeds = len(next(iter(folders.values())))
    figure.suptitle(f"Mean over {seeds} seeds; bands: ± one standard deviation", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    half = target.with_name(f".{target.name}")
    figure.savefig(half, dpi=150, format=target.suffix[1:])
    plt.close(figure)
    half.replace(target)


def _row(results: Sequence[Result], cost: float) -> Row:
    name = results[0].main_metric
    metrics = [r.metrics[name] for r in results]
    return Row(
        method=results[0].method,
        seeds=len(results),
        best=_spread([m.best for m in metrics]),
        last=_spread([m.last for m in metrics]),
        loss_best=_spread([r.eval_loss.best for r in results]),
        loss_last=_spread([r.eval_loss.last for r in results]),
        gap=_spread([r.gap[name] for r in results]),
        cost=cost,
    )


def _spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    return Spread(statistics.mean(known), statistics.stdev(known))


def _difference(measure: str, own: Sequence[Any], base: Sequence[Any]) -> Difference:
    from scipy.stats import ttest_rel

    interval = ttest_rel(own, base).confidence_interval(0.95)
    mean = statistics.mean(a - b for a, b in zip(own, base, strict=True))
    return Difference(measure, mean, float(interval.low), float(interval.high))


def _read_lines(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _curve(
    axes: Any,
    epochs: Sequence[float],
    runs: Sequence[Sequence[Mapping[str, Any]]],
    name: str,
    label: str,
    style: str,
) -> None:
    method = label.partition(",")[0]
    columns = [[run[look][name] for run in runs] for look in range(len(epochs))]
    means = [statistics.mean(column) for column in columns]
    spreads = [statistics.stdev(column) for column in columns]
    axes.plot(epochs, means, style, color=_COLOURS[method], label=label, marker="o", markersize=3)
    axes.fill_between(
        epochs,
        [m - s for m, s in zip(means, spreads, strict=True)],
        [m + s for m, s in zip(means, spreads, strict=True)],
        color=_COLOURS[method],
        alpha=0.15,
        linewidth=0,
    )
