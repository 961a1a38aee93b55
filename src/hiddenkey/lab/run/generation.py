"""What a trained language model writes for the evaluation prompts, and how good it is."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hiddenkey.lab.run.decoding import generate
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.recorder import Observer
from hiddenkey.lab.scores import score_groups
from hiddenkey.lab.tasks import Example, Task


def generate_and_score(
    folder: RunFolder,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    options: TrainOptions,
    observer: Observer,
) -> dict[str, Any]:
    """Generate a text for each evaluation example, and store the texts and their scores.

    Writes ``generations.jsonl`` (prompt, output and references of each example) and ``scores.json``
    (metrics of all and of each group of examples, and the metrics that were skipped, with reasons).

    Returns:
        The metrics of all examples under the names of ``metrics.jsonl``, and the seconds it took.
    """
    started = time.perf_counter()
    examples = prepared.splits.evaluation
    prompts = [example.texts[0] for example in examples]
    observer.generating(len(prompts))
    outputs = generate(model, tokenizer, prompts, options, observer.generated)
    texts = [_line(example, output) for example, output in zip(examples, outputs, strict=True)]
    folder.write_lines("generations.jsonl", texts)
    scores = _scores(prepared.task, examples, outputs)
    folder.write_json("scores.json", scores)
    observer.scored(texts, scores)
    found = {f"eval_{name}": value for name, value in scores["all"].items()}
    return found | {"generation_seconds": time.perf_counter() - started}


def _line(example: Example, output: str) -> dict[str, Any]:
    references = list(_references(example))
    return {"prompt": example.texts[0], "output": output, "references": references}


def _scores(task: Task, examples: tuple[Example, ...], outputs: list[str]) -> dict[str, Any]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups["all"].append(index)
        if example.group:
            groups[example.group].append(index)
    references = [_references(example) for example in examples]
    scored = score_groups(task.family, references, outputs, groups)
    found: dict[str, Any] = {name: dict(scores.values) for name, scores in scored.items()}
    return found | {"skipped": dict(scored["all"].skipped)}


def _references(example: Example) -> tuple[str, ...]:
    return example.references or (str(example.label),)
