"""The model card of what a run leaves: where it comes from, what it scored and how to load it.

Its front matter is the hub's: https://huggingface.co/docs/hub/model-cards. It names no path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from hiddenkey.lab.run.leaving import Origin, is_local, public_name
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.tasks.classes import described

_AUTO: Final = {"generation": "CausalLM"}
_PIPELINES: Final = {"generation": "text-generation"}
_NAMES: Final = {
    "lora": "LoRA adapter",
    "dora": "DoRA adapter",
    "ia3": "IA3 adapter",
    "prefix": "prefix",
    "full": "fully fine-tuned model",
}
_MOST_NAMED: Final = 50
_ALWAYS: Final = (
    *("task", "model", "max_length", "method", "adapter", "learning_rate", "scheduler", "epochs"),
    *("batch_size", "seed"),
)
_SHOWN_VERSIONS: Final = ("python", "hiddenkey", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Story:
    """What a card tells of.

    Attributes:
        options: the run's settings.
        prepared: its data and dropout.
        result: what it found.
        line: the evaluation whose weights were kept.
        sites: a line for each drop and the loss.
        environment: the versions, by name.
    """

    options: TrainOptions
    prepared: Prepared
    result: Result
    line: Mapping[str, Any]
    sites: Sequence[str]
    environment: Mapping[str, Any]

    @property
    def when(self) -> str:
        """Which evaluation's weights these are."""
        step, steps = self.line["step"], self.result.steps
        return "last step" if step == steps else f"best evaluation, step {step} of {steps}"

    @property
    def measured(self) -> dict[str, float]:
        """The metrics and the loss of the weights that were kept."""
        names = (*self.prepared.task.metrics, "loss")
        found = {name: self.line.get(f"eval_{name}") for name in names}
        return {name: value for name, value in found.items() if value is not None}


def card(story: Story) -> str:
    """Return the model card as Markdown with its front matter."""
    parts = (_front, _summary, _loading, _data, _results, _method, _settings, _versions)
    return "\n\n".join(part(story) for part in parts) + "\n"


def _front(story: Story) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    options, task = story.options, story.prepared.task
    base = None if is_local(options.model) else public_name(options.model)
    pipeline = _PIPELINES.get(task.kind, "text-classification")
    results = [
        EvalResult(pipeline, task.name, task.name, name, value, metric_name=f"{name}, {story.when}")
        for name, value in story.measured.items()
    ]
    content = ModelCardData(
        base_model=base,
        library_name="transformers" if options.adapter == "full" else "peft",
        pipeline_tag=pipeline,
        tags=["hiddenkey", options.adapter, options.method],
        model_name=f"{task.name}-{public_name(options.model).rpartition('/')[2]}-{options.method}",
        eval_results=results,
    )
    return f"---\n{content.to_yaml()}\n---"


def _summary(story: Story) -> str:
    options = story.options
    base = public_name(options.model)
    where = ", a local folder's model" if is_local(options.model) else ""
    return (
        f"# {_NAMES[options.adapter]} of {base} for {story.prepared.task.name}\n\n"
        f"Trained with the structured dropout `{options.method}` (arXiv 2403.00812) by hiddenkey."
        f" The base model is `{base}`{where}."
    )


def _loading(story: Story) -> str:
    is_full = story.options.adapter == "full"
    auto = _AUTO.get(story.prepared.task.kind, "SequenceClassification")
    loader = f"AutoModelFor{auto}" if is_full else f"AutoPeftModelFor{auto}"
    trust = ["trust_remote_code=True"] if story.options.trust_remote_code else []
    labels, arguments = _head(story) if auto not in _AUTO.values() and not is_full else ([], [])
    dtype = "float32" if is_full else story.options.precision
    given = ["folder", *arguments, f"dtype={dtype!r}", *trust]
    lines = [
        f"from {'transformers' if is_full else 'peft'} import {loader}",
        "from transformers import AutoTokenizer\n",
        'folder = "."  # this folder, or its name on the hub',
        *labels,
        f"model = {loader}.from_pretrained(",
        *(f"    {each}," for each in given),
        ")",
        f"tokenizer = AutoTokenizer.from_pretrained({', '.join(['folder', *trust])})",
    ]
    code = "\n".join(lines)
    return (
        f"## Loading\n\n```python\n{code}\n```\n\n"
        f"{_hints(story, named=bool(labels))}"
        "`hiddenkey predict FOLDER texts.csv` does this and encodes texts as in training."
    )


def _head(story: Story) -> tuple[list[str], list[str]]:
    """The lines and arguments that tell PEFT of the classes."""
    names = story.prepared.splits.label_names
    replaced = "ignore_mismatched_sizes=True"  # where the base model has a head of its own
    if not 0 < len(names) <= _MOST_NAMED:
        return [], [f"num_labels={max(1, len(names))}", replaced]
    both = ["id2label=labels", "label2id={name: index for index, name in labels.items()}"]
    return [f"labels = {dict(enumerate(names))}"], [*both, replaced]


def _hints(story: Story, *, named: bool) -> str:
    said = []
    if named:
        said.append("PEFT knows no classes, so the loading code names them. ")
    if _is_gguf(story.options.model):
        said.append(
            "The base model's weights were read from a quantised GGUF file. Other weights of the"
            " same model change the outputs slightly. "
        )
    return "".join(said)


def _is_gguf(model: str) -> bool:
    from hiddenkey.lab.assets import BUNDLED_MODELS

    bundled = BUNDLED_MODELS.get(model)
    return bundled.gguf is not None if bundled else model.lower().endswith(".gguf")


def _data(story: Story) -> str:
    source, splits = story.options, story.prepared.splits
    columns = ", ".join(f"`{name}`" for name in source.text_columns)
    lines = [f"Task `{story.prepared.task.name}`: {story.prepared.task.summary}."]
    lines += [f"{line[:1].upper()}{line[1:]}." for line in described(splits)]
    if columns:
        lines.append(f"Text columns: {columns}; label column: `{source.label_column}`.")
    return "## Data\n\n" + "\n".join(f"- {line}" for line in lines)


def _results(story: Story) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in story.measured.items()]
    head = f"| metric | {story.when} |\n|---|---|\n"
    said = (
        "\n\nMeasured on the evaluation examples. This is one run with one seed;"
        " methods can only be compared over several."
    )
    return "## Evaluation\n\n" + head + "\n".join(rows) + said


def _method(story: Story) -> str:
    lines = story.sites or ("nothing is dropped",)
    return "## Dropout in training\n\n" + "\n".join(f"- {line}" for line in lines)


def _settings(story: Story) -> str:
    """The settings that every reader looks for, and those that are not at their defaults."""
    settings = {"model": public_name(story.options.model)}
    settings |= Origin.of(story.options, story.prepared).settings
    plain = TrainOptions().recorded()
    used = {n: value for n, value in settings.items() if n in _ALWAYS or value != plain[n]}
    text = yaml.safe_dump(used, sort_keys=False, allow_unicode=True)
    return f"## Settings\n\n```yaml\n{text}```"


def _versions(story: Story) -> str:
    shown = [f"{name} {story.environment[name]}" for name in _SHOWN_VERSIONS]
    return "## Versions\n\n" + ", ".join(shown)
