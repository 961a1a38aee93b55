"""What a trained adapter says of texts: a class with its probability, a score, or a text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hiddenkey.lab.run import accelerator
from hiddenkey.lab.run.adapters import add_adapter, load_precision
from hiddenkey.lab.run.encoding import collator, encode, prompt_of
from hiddenkey.lab.run.generation import generate
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.models import load_model, loading
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.texts import Texts
from hiddenkey.lab.scores import score_groups
from hiddenkey.lab.scores.metrics import score
from hiddenkey.lab.tasks import Example, find_task
from hiddenkey.lab.tasks.generation import merge_references


@dataclass(frozen=True)
class Predictions:
    """What a model said of each text of a file.

    Attributes:
        columns: names of what it said: a label and its probability, a score, or a text.
        rows: a value for each column, for each text in the file's order.
        metrics: by name, as in training; empty where the file has no labels.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    metrics: dict[str, float]


def predict(folder: Path, origin: Origin, options: TrainOptions, texts: Texts) -> Predictions:
    """Load what a run left and let it predict; texts are encoded as in training.

    Args:
        folder: the adapter's.
        origin: what its ``hiddenkey_run.json`` holds.
        options: the run's settings, with the base model.
        texts: what to predict for.

    Raises:
        ConfigError: if the model cannot be loaded, or the adapter does not fit it.
    """
    model, tokenizer = load_trained(folder, origin, options)
    if origin.kind == "generation":
        return _generated(model, tokenizer, options, texts)
    logits = classify(model, tokenizer, options, texts.examples)
    if origin.kind == "regression":
        scores = logits[:, 0].tolist()
        return Predictions(
            ("predicted_score",),
            tuple((value,) for value in scores),
            _metrics(options, texts, scores),
        )
    best = (logits / origin.inference.temperature).softmax(-1).max(-1)
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    rows = tuple((origin.label_names[index], round(value, 6)) for index, value in found)
    metrics = _metrics(options, texts, best.indices.tolist())
    return Predictions(("predicted_label", "probability"), rows, metrics)


def load_trained(
    folder: Path, origin: Origin, options: TrainOptions
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the trained model in evaluation mode, on the accelerator if there is one.

    Its weights have the number formats that they had in training.

    Raises:
        ConfigError: if the model cannot be loaded, or the adapter does not fit it.
    """
    precision, trusted = load_precision(options), options.trust_remote_code
    is_full = options.adapter == "full"
    model, tokenizer = load_model(
        str(folder) if is_full else options.model,
        origin.kind,
        origin.label_names,
        precision,
        quantize=options.quantize,
        trusted=trusted,
    )
    if not is_full:
        model = add_adapter(model, options, origin.kind)
        with loading(str(folder)):
            weights = load_peft_weights(str(folder), device="cpu")
            if differing := weights.keys() ^ get_peft_model_state_dict(model).keys():
                raise ValueError(f"{sorted(differing)[0]} is missing on one side")
            set_peft_model_state_dict(model, weights)
    if options.quantize == "none":  # else it is there already, and is not to be moved
        model = model.to(accelerator.device())
    return model.eval(), tokenizer


def classify(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainOptions,
    examples: Sequence[Example],
) -> Tensor:
    """Return the logits ``[examples, classes]`` in float32; texts of like length share a batch."""
    rows = encode(examples, tokenizer, options.max_length, "classification")
    rows = [{name: row[name] for name in row if name != "labels"} for row in rows]
    collate = collator(tokenizer, "classification")
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]["input_ids"]), index))
    found: list[Tensor] = []
    with torch.no_grad(), _as_in_training(model, options):
        for start in range(0, len(order), options.eval_batch_size):
            batch = [rows[index] for index in order[start : start + options.eval_batch_size]]
            found.append(model(**collate(batch).to(model.device)).logits.float().cpu())
    logits = torch.cat(found)
    return logits[torch.tensor(order).argsort()]


def _as_in_training(
    model: PreTrainedModel | PeftModel, options: TrainOptions
) -> AbstractContextManager[object]:
    if options.precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


def _metrics(
    options: TrainOptions, texts: Texts, predicted: Sequence[int | float]
) -> dict[str, float]:
    if not texts.labelled:
        return {}
    names = find_task(options.task, options).metrics
    return score(names, predicted, [example.label for example in texts.examples])


def _generated(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainOptions,
    texts: Texts,
) -> Predictions:
    """Generate one text for each different prompt."""
    prompts = merge_references(texts.examples)
    asked = [prompt_of(each, tokenizer) for each in prompts]
    outputs = generate(model, tokenizer, asked, options)
    metrics: dict[str, float] = {}
    if texts.labelled:
        family = find_task(options.task, options).family
        references = [each.references for each in prompts]
        scored = score_groups(family, references, outputs, {"all": range(len(outputs))})
        metrics = dict(scored["all"].values)
    said = {each.texts: output for each, output in zip(prompts, outputs, strict=True)}
    rows = tuple((said[example.texts],) for example in texts.examples)
    return Predictions(("generated_text",), rows, metrics)
