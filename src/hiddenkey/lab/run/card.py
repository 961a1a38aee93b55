"""The model card of what a run leaves: where it comes from, what it scored and how to load it.

Its front matter is the hub's: https://huggingface.co/docs/hub/model-cards. It names no path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from hiddenkey.lab.run.choice import Used
from hiddenkey.lab.run.leaving import Origin, is_local, public_name
from hiddenkey.lab.run.models import model_source
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
        used: what of the run is used at inference.
    """

    options: TrainOptions
    prepared: Prepared
    result: Result
    line: Mapping[str, Any]
    sites: Sequence[str]
    environment: Mapping[str, Any]
    used: Used

    @property
    def subject(self) -> str:
        """The task's name; of a user's own files, whose name may be private, the kind of task."""
        task = self.prepared.task
        return task.kind if task.needs == "files" else task.name

    @property
    def when(self) -> str:
        """Which evaluation's weights these are."""
        step, steps = self.line["step"], self.result.steps
        return "last step" if step == steps else f"best evaluation, step {step} of {steps}"

    @property
    def measured(self) -> dict[str, float]:
        """The metrics and the loss of the weights that were kept."""
        names = (*self.prepared.task.metrics, "loss", "loss_after_temperature")
        found = {name: self.line.get(f"eval_{name}") for name in names}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def inference(self) -> str:
        """What is used at inference, in a sentence; empty for the last weights as they are."""
        options, (name, _, factor) = self.options, self.used.weights.partition(" ")
        what = {
            "average": f"the mean of the last {options.average_part:.0%} of the steps",
            "ema": f"the exponential mean of the steps, with decay {options.ema_decay:g}",
            "scale": f"those of the last step with the update times {factor}",
        }
        beside = "those of the last step are in `last/`."
        said = f"The weights are {what[name]}; {beside}" if name in what else ""
        if held_out := len(self.prepared.choice):
            said += f" {held_out} of the training examples were held out to choose this."
        if self.used.temperature != 1:
            said += f" Divide its logits by {self.used.temperature:.4g} before the softmax,"
            said += " as `hiddenkey predict` does."
        return said.strip()


def card(story: Story) -> str:
    """Return the model card as Markdown with its front matter."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hiddenkey.lab.run"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    options = story.options
    return templates.get_template("card.md").render(
        story=story,
        options=options,
        task=story.prepared.task,
        front=_front(story),
        what=_NAMES[options.adapter],
        base=public_name(options.model),
        is_local=is_local(options.model),
        is_gguf=bool(model_source(options.model)[1]),
        data=described(story.prepared.splits),
        settings=_settings(story),
        versions=[f"{n} {v}" for n, v in story.environment.items() if n in _SHOWN_VERSIONS],
        **_loading(story),
    )


def _front(story: Story) -> str:
    """The metadata that the hub reads, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    options, about = story.options, story.subject
    pipeline = _PIPELINES.get(story.prepared.task.kind, "text-classification")
    results = [
        EvalResult(pipeline, about, about, name, value, metric_name=f"{name}, {story.when}")
        for name, value in story.measured.items()
    ]
    content = ModelCardData(
        base_model=None if is_local(options.model) else public_name(options.model),
        library_name="transformers" if options.adapter == "full" else "peft",
        pipeline_tag=pipeline,
        tags=["hiddenkey", options.adapter, options.method],
        model_name=f"{about}-{public_name(options.model).rpartition('/')[2]}-{options.method}",
        eval_results=results,
    )
    return str(content.to_yaml())


def _loading(story: Story) -> dict[str, Any]:
    """What the code that loads the model is made of."""
    options, names = story.options, story.prepared.splits.label_names
    is_full = options.adapter == "full"
    auto = _AUTO.get(story.prepared.task.kind, "SequenceClassification")
    labels, head = "", []
    if auto == "SequenceClassification" and not is_full:
        head = ["ignore_mismatched_sizes=True"]  # where the base model has a head of its own
        if 0 < len(names) <= _MOST_NAMED:
            labels = str(dict(enumerate(names)))
            head += ["id2label=labels", "label2id={name: i for i, name in labels.items()}"]
        else:
            head.append(f"num_labels={max(1, len(names))}")
    trust = ["trust_remote_code=True"] if options.trust_remote_code else []
    dtype = "float32" if is_full else options.precision
    return {
        "library": "transformers" if is_full else "peft",
        "loader": f"{'AutoModel' if is_full else 'AutoPeftModel'}For{auto}",
        "labels": labels,
        "arguments": ["folder", *head, f"dtype={dtype!r}", *trust],
        "trust": trust,
    }


def _settings(story: Story) -> str:
    """The settings that every reader looks for, and those that are not at their defaults."""
    settings = {"model": public_name(story.options.model)}
    settings |= Origin.of(story.options, story.prepared).settings
    plain = TrainOptions().recorded()
    used = {n: value for n, value in settings.items() if n in _ALWAYS or value != plain[n]}
    return str(yaml.safe_dump(used, sort_keys=False, allow_unicode=True))
