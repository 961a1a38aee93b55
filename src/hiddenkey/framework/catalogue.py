"""The named methods, each a configuration with its paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hiddenkey.errors import ConfigError, is_one_of, not_one_of
from hiddenkey.framework.compensation import SMOOTHING
from hiddenkey.framework.config import Drop, DropoutConfig, rate_faults
from hiddenkey.framework.consistency import Consistency
from hiddenkey.framework.schedule import RateSchedule

DEFAULT_RATE = 0.1


@dataclass(frozen=True)
class Method:
    """A method of the framework.

    Attributes:
        name: its name.
        summary: what it does, in one line.
        paper: where it comes from.
        config: its configuration at the default rate.
    """

    name: str
    summary: str
    paper: str
    config: DropoutConfig

    @property
    def where(self) -> str:
        """First axis: its positions."""
        return " + ".join(drop.position for drop in self.config.drops) or "nowhere"

    @property
    def pattern(self) -> str:
        """Second axis: the pattern at each position."""
        return " + ".join(drop.pattern for drop in self.config.drops) or "none"

    @property
    def compensation(self) -> str:
        """Third axis: rescaling of what stays, and the loss that is added."""
        rules = [drop.rescaling for drop in self.config.drops if drop.rescaling != "none"]
        if self.config.consistency is not None:
            rules.append(self.config.consistency.name)
        return " + ".join(rules) or "none"


_FRAMEWORK = "LoRA Meets Dropout under a Unified Framework, arXiv 2403.00812"
_DROPKEY = "DropKey, arXiv 2208.02646"
_DROPATTENTION = "DropAttention, arXiv 1907.11065"
_HIDDENCUT = "HiddenCut, arXiv 2106.00149"
_CUTOFF = "Cutoff, arXiv 2009.13818"

_TEMPORAL = "Temporal Ensembling, arXiv 1610.02242"
_DROPLORA = "DropLoRA, arXiv 2508.17337"
_LORA_DROPOUT = "LoRA dropout, arXiv 2404.09610"
_COTO = "CoTo, arXiv 2506.05713"
_COTO_RATE = 0.9
_COTO_SCHEDULE = RateSchedule(decay="linear", end=0.75, positions=("update",))

_KEY_COLUMN = Drop("attention_logits", "column", DEFAULT_RATE)
_HIDDEN_ELEMENT = Drop("hidden", "element", DEFAULT_RATE)


def _table() -> Mapping[str, Method]:
    table = [
        _entry("lora", "no noise; the model's own dropout off", "LoRA, arXiv 2106.09685"),
        *_family("dropkey", "attention_logits", "column", "logits", _DROPKEY),
        *_family("dropattention", "attention_weights", "column", "weights", _DROPATTENTION),
        *_family("hiddencut", "hidden", "span", "feed-forward outputs", _HIDDENCUT),
        *_family("cutoff", "input", "span", "input embeddings, set to zero", _CUTOFF),
        _entry(
            "output-dropout",
            "elements of what enters the classifier",
            "Dropout, JMLR 15 (2014) 1929-1958",
            Drop("output", "element", DEFAULT_RATE),
        ),
        _entry(
            "hiddenkey-minus",
            "column DropKey and element HiddenCut",
            _FRAMEWORK,
            _KEY_COLUMN,
            _HIDDEN_ELEMENT,
        ),
        _entry(
            "hiddenkey",
            "column DropKey, element HiddenCut and a bidirectional KL loss",
            _FRAMEWORK,
            _KEY_COLUMN,
            _HIDDEN_ELEMENT,
            consistency=Consistency("kl"),
        ),
        _entry(
            "hiddenkey-js",
            "HiddenKey with KL to an inference pass, the paper's reading of HiddenCut's JS loss",
            _FRAMEWORK,
            _KEY_COLUMN,
            _HIDDEN_ELEMENT,
            consistency=Consistency("js"),
        ),
        _entry(
            "hiddencut-mixture",
            "HiddenCut's spans with the loss of its code, through both passes",
            _HIDDENCUT,
            Drop("hidden", "span", DEFAULT_RATE),
            consistency=Consistency("mixture", backward="both"),
        ),
        _entry(
            "temporal",
            "KL to the example's own prediction of its last pass; no noise, no second pass",
            _TEMPORAL,
            consistency=Consistency("kl", target="history"),
        ),
        _entry(
            "hiddenkey-temporal",
            "HiddenKey's noise with that loss in place of a second pass",
            f"{_FRAMEWORK}; {_TEMPORAL}",
            _KEY_COLUMN,
            _HIDDEN_ELEMENT,
            consistency=Consistency("kl", target="history"),
        ),
        _entry(
            "label-smoothing",
            "a tenth of each label spread over all classes; no noise",
            "Rethinking the Inception Architecture, arXiv 1512.00567",
            consistency=Consistency(SMOOTHING, weight=0.1),
        ),
        _entry(
            "update-dropout",
            "single entries of LoRA's update",
            "Dropout, JMLR 15 (2014) 1929-1958",
            Drop("update", "element", DEFAULT_RATE),
        ),
        _entry(
            "droplora",
            "ranks of LoRA's update, for all tokens of a sequence",
            _DROPLORA,
            Drop("update", "rank", DEFAULT_RATE),
        ),
        _entry(
            "two-sided-lora-dropout",
            "features before LoRA's matrix A and after B, for all tokens of a sequence",
            _LORA_DROPOUT,
            Drop("update", "two-sided", DEFAULT_RATE),
        ),
        _entry(
            "coto",
            "a layer's whole update; the rate falls from 0.9 to 0 in three quarters of the steps",
            _COTO,
            Drop("update", "adapter", _COTO_RATE, rescale="none"),
            schedule=_COTO_SCHEDULE,
        ),
    ]
    return MappingProxyType({entry.name: entry for entry in table})


def _entry(name: str, summary: str, paper: str, *drops: Drop, **others: Any) -> Method:
    return Method(name, summary, paper, DropoutConfig(drops, **others))


def _family(name: str, position: str, own: str, what: str, paper: str) -> list[Method]:
    """One method with its paper's own pattern, and one for each pattern of the framework."""
    units = {
        "element": f"single entries of the {what}",
        "column": f"whole columns of the {what}",
        "span": f"one contiguous run of the {what}",
    }
    if position == "input":
        units["feature"] = f"single features of the {what}, for all tokens"
    entries = [_entry(name, units[own], paper, Drop(position, own, DEFAULT_RATE))]
    for pattern, summary in units.items():
        drop = Drop(position, pattern, DEFAULT_RATE)
        entries.append(_entry(f"{name}-{pattern}", summary, paper, drop))
    return entries


_METHODS = _table()


def methods() -> Mapping[str, Method]:
    """Return all methods by name."""
    return _METHODS


def method(
    name: str, rate: float | None = None, *, rates: Mapping[str, float] | None = None
) -> DropoutConfig:
    """Return the configuration of a named method.

    Args:
        name: a key of :func:`methods`.
        rate: dropout rate of all its drops, in [0, 1); ``None`` keeps the
            method's own: 0.1, and 0.9 at the start of ``coto``.
        rates: rates by position; they win over ``rate``.

    Raises:
        ConfigError: for an unknown name, a position that the method has not, or a rate outside
            [0, 1).
    """
    if not is_one_of(name, _METHODS):
        raise ConfigError(not_one_of("method", name, _METHODS))
    config = _METHODS[name].config
    rates = {} if rates is None else rates
    if not isinstance(rates, Mapping):
        raise ConfigError(f"rates must map positions to rates, got {rates!r}; use rate for all")
    positions = [drop.position for drop in config.drops]
    faults = [] if rate is None else rate_faults(rate, "rate")
    faults += [
        f"method {name!r} drops at {', '.join(positions) or 'no position'}, got a rate for"
        f" {position!r}; leave it out or choose another method"
        for position in rates
        if position not in positions
    ]
    if faults:
        raise ConfigError(faults)
    drops = tuple(
        dataclasses.replace(
            drop, rate=rates.get(drop.position, drop.rate if rate is None else rate)
        )
        for drop in config.drops
    )
    return dataclasses.replace(config, drops=drops)
