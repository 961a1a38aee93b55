"""What an analysis of gradient noise found, as plain values and as a table."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gradient_noise.attention_maps import MapFindings
from gradient_noise.comparison import Comparison, compare
from gradient_noise.measurement import EXTRA, METHODS, Point, Setting
from gradient_noise.moments import Estimate
from gradient_noise.options import GradientNoiseOptions
from hiddenkey.lab.present.entries import Entry, Grid, entry, lines_of, make_grid, numeric
from hiddenkey.lab.present.words import interval, number

READING: Final = (
    "Both methods had the same masks, hence equal outputs; all LoRA matrices and batches are taken"
    " together. SNR: squared norm of the mean gradient over the trace of its covariance over masks."
    " DropKey's mean gradient is that of the expected loss; SNR to the loss is its squared norm"
    " over the mean squared distance of DropAttention's gradient from it. Noise ratio: the trace"
    " under DropAttention over that under DropKey. Bias: distance of DropAttention's mean gradient"
    " from DropKey's, relative to it; cosine: between the two. Mask over batch noise: the trace"
    " relative to the variance of the gradient without noise between the batches. On dropped keys:"
    " DropAttention's share of the absolute gradient to attention's logits that lies on dropped"
    " keys; DropKey's is 0. k: equation 10, each key weighing as much as the attention"
    " that it gets. In brackets: 95 % intervals over the masks, for these batches. At step 0 only"
    " the B matrices have a gradient."
)
_TITLE: Final = "Gradients to LoRA's matrices under DropKey (DK) and DropAttention (DA)"
_COLUMNS: Final = (
    "pattern",
    "step",
    "rate",
    "SNR, DK",
    "SNR, DA",
    "SNR to the loss, DA",
    "noise ratio",
    "bias",
    "cosine of means",
    "mask / batch noise, DK",
    "mask / batch noise, DA",
    "on dropped keys, DA",
    "k, median",
)


@dataclass(frozen=True)
class Row:
    """One setting, compared over all LoRA matrices and batches."""

    point: Point
    pattern: str
    rate: float
    compared: Comparison
    maps: MapFindings


def to_row(setting: Setting) -> Row:
    """Compare the methods in one setting."""
    return Row(setting.point, setting.pattern, setting.rate, compare(setting), setting.maps)


def to_grid(rows: Sequence[Row]) -> Grid:
    """Return the table of all settings."""
    cells = [_cells(row) for row in rows]
    return make_grid("gradient_noise", _TITLE, _COLUMNS, cells)


def to_record(
    options: GradientNoiseOptions,
    settings: Sequence[Setting],
    data: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all numbers."""
    return {
        "settings": options,
        "data": data,
        "environment": environment,
        "measurements": [_measurement(setting) for setting in settings],
    }


def _measurement(setting: Setting) -> dict[str, Any]:
    batches = setting.moments[EXTRA]
    parts = {
        "all": compare(setting),
        "A": compare(setting, lambda name: name.endswith("lora_A")),
        "B": compare(setting, lambda name: name.endswith("lora_B")),
    }
    matrices = {name: compare(setting, partial(operator.eq, name)) for name in batches[0]}
    single = [compare(_only_batch(setting, index)) for index in range(len(batches))]
    return {
        "point": setting.point,
        "pattern": setting.pattern,
        "rate": setting.rate,
        "outputs": {"largest_difference": setting.difference, "largest": setting.largest},
        **parts,
        "batches": single,
        "matrices": matrices,
        "maps": setting.maps,
    }


def _only_batch(setting: Setting, index: int) -> Setting:
    moments = {name: [batches[index]] for name, batches in setting.moments.items()}
    return dataclasses.replace(setting, moments=moments)


def _cells(row: Row) -> list[Entry]:
    key, attention = (row.compared.methods[name] for name in METHODS)
    share = row.maps.shares.get("dropattention")
    return [
        entry(row.pattern),
        Entry(str(row.point.step), row.point.step),
        Entry(f"{row.rate:g}", row.rate),
        _estimate(key.snr),
        _estimate(attention.snr),
        _estimate(row.compared.loss_snr),
        _estimate(row.compared.noise_ratio),
        _estimate(row.compared.bias),
        _estimate(row.compared.cosine),
        _ratio(key.of_batch_noise),
        _ratio(attention.of_batch_noise),
        numeric(share.absolute if share else None),
        numeric(row.maps.k_attended["0.5"] if row.maps.k_attended else None),
    ]


def _estimate(found: Estimate) -> Entry:
    bounds = interval(found.low, found.high)
    return Entry(number(found.value), found.value, details=lines_of(bounds))


def _ratio(value: float | None) -> Entry:
    """Without decimals where they say nothing: what is divided by may be close to 0."""
    return numeric(value, None if value is None or value < 100 else f"{value:,.0f}")
