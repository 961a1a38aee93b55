"""The user's own prompts and completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import METRICS
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.tables import Columns, read_splits

_PROMPT: Final = "prompt"
_COMPLETION: Final = "completion"


def merge_references(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return one example for each prompt, with all its texts as references, in order."""
    texts: dict[tuple[tuple[str, ...], str], list[str]] = defaultdict(list)
    for example in examples:
        texts[example.texts, example.group].append(str(example.label))
    return tuple(
        Example(prompt, references[0], tuple(references), group)
        for (prompt, group), references in texts.items()
    )


def resolve(source: Source) -> Task:
    """Return the task that ``--task completion`` means for these columns."""
    return replace(
        COMPLETION,
        text_columns=source.text_columns or COMPLETION.text_columns,
        label_column=_target(source),
    )


def _target(source: Source) -> str:
    default = Source().label_column
    return _COMPLETION if source.label_column == default else source.label_column


def _load(source: Source) -> Splits:
    if source.train_file is None or source.eval_file is None:
        raise ConfigError("--task completion needs --train-file and --eval-file; give both")
    columns = Columns(source.text_columns or (_PROMPT,), _target(source), is_text=True)
    train, evaluation = read_splits(source.train_file, source.eval_file, columns)
    return Splits(train, merge_references(evaluation))


COMPLETION: Final = Task(
    name="completion",
    summary="your own prompts and completions (columns 'prompt' and 'completion')",
    kind="generation",
    metrics=METRICS["e2e"],
    needs="files",
    load=_load,
    text_columns=(_PROMPT,),
    label_column=_COMPLETION,
    family="e2e",
)
