"""``hiddenkey doctor``: where a method acts on a model, layer by layer, or on all there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.cli.options import DoctorOptions
from hiddenkey.cli.terminal import plain_table, print_json, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hiddenkey import DropoutConfig, Site

_AUTO: Final = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "image": "AutoModelForImageClassification",
}
_COLUMNS: Final = ("layer", "position", "name", "pattern", "rate", "kernel")


def run(options: DoctorOptions) -> int:
    """Print the sites and return the exit status."""
    config = _config(options)
    quiet()
    found = examine(options, config)
    if options.json:
        print_json(found)
    else:
        _show(found)
    return 0


def examine(options: DoctorOptions, config: DropoutConfig) -> dict[str, Any]:
    """Attach the method to the model in training mode and return its sites as plain JSON types.

    Raises:
        ConfigError: if there is no such model, or the method does not fit it.
        AttachError: if the model does not have, or does not show, what the method acts on.
    """
    import hiddenkey
    from hiddenkey import anatomy

    model = _load(options).train()
    layers = len(anatomy.find_layers(model))
    with hiddenkey.attach(_with_lora(model, config), config, kernel=options.kernel) as attachment:
        return {
            "model": options.model,
            "class": type(model).__name__,
            "method": options.method,
            "layers": layers,
            "totals": totals(attachment.sites, layers),
            "summary": attachment.summary(),
            "sites": [dataclasses.asdict(site) for site in attachment.sites],
            "gaps": [dataclasses.asdict(gap) for gap in attachment.gaps],
        }


def totals(sites: Sequence[Site], layers: int) -> dict[str, str]:
    """Say for each position in how many layers it acts, such as ``6 of 6 layers``."""
    reached: dict[str, set[int]] = {}
    for site in sites:
        if site.layer is not None:
            reached.setdefault(site.position, set()).add(site.layer)
    within = {position: f"{len(own)} of {layers} layers" for position, own in reached.items()}
    outside = {site.position: site.name for site in sites if site.layer is None}
    return within | outside


def _config(options: DoctorOptions) -> DropoutConfig:
    import hiddenkey

    if not Path(options.method).exists():
        config = hiddenkey.method(options.method, rate=options.rate, rates=options.rates)
    elif options.rate is not None or options.rates:
        raise ConfigError(
            f"rate and rates belong to a named method, got them with the file {options.method!r};"
            " change the rates in the file"
        )
    else:
        config = hiddenkey.DropoutConfig.from_pretrained(options.method)
    return config if options.layers is None else dataclasses.replace(config, layers=options.layers)


def _load(options: DoctorOptions) -> PreTrainedModel:
    import torch
    import transformers

    from hiddenkey.lab.run.models import load_config, loading, model_source
    from hiddenkey.lab.run.preparation import model_faults

    if faults := model_faults(options.model):
        raise ConfigError(faults)
    labels = () if options.head == "regression" else ("0", "1")
    trusted, head = options.trust_remote_code, options.head not in ("causal", "seq2seq")
    config = load_config(options.model, labels, head=head, trusted=trusted)
    kind = getattr(transformers, _AUTO.get(options.head, "AutoModelForSequenceClassification"))
    with loading(options.model):
        if options.meta:
            with torch.device("meta"):
                return kind.from_config(config, trust_remote_code=trusted)
        name, how = model_source(options.model)
        return kind.from_pretrained(
            name,
            config=config,
            use_safetensors=None if how else True,
            trust_remote_code=trusted,
            **how,
        )


def _with_lora(model: PreTrainedModel, config: DropoutConfig) -> Any:
    """Put LoRA on keys and values, as a run does, where a method drops its update."""
    if all(drop.position != "update" for drop in config.drops):
        return model
    from peft import get_peft_model

    from hiddenkey.lab.run.adapters import lora_config
    from hiddenkey.lab.run.options import TrainOptions

    return get_peft_model(model, lora_config(model, TrainOptions())).train()


def _show(found: dict[str, Any]) -> None:
    console = standard_console()
    table = plain_table(
        f"{found['method']} on {found['model']} ({found['class']}) in training mode"
    )
    for column in _COLUMNS:
        is_number, may_fold = column in ("layer", "rate"), column == "name"
        table.add_column(
            "module" if may_fold else column,
            justify="right" if is_number else "left",
            no_wrap=not may_fold,
            overflow="fold",
        )
    for site in sorted(found["sites"], key=lambda s: -1 if s["layer"] is None else s["layer"]):
        values = {**site, "rate": f"{site['rate']:g}"}
        values["layer"] = "-" if site["layer"] is None else site["layer"]
        table.add_row(*(str(values[column]) for column in _COLUMNS))
    if found["sites"]:
        console.print(table)
    for line in found["summary"]:
        say(console, line)
