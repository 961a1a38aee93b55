"""Which model types the installed transformers has, and on which task each is examined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

from hiddenkey.errors import ConfigError, not_one_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Task = Literal["causal", "seq2seq", "classification", "image"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
TEXT_TASKS: Final[tuple[Task, ...]] = ("causal", "seq2seq", "classification")

_MAPPINGS: Final = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}


def class_names(task: Task) -> dict[str, str]:
    """Return the name of the model class for each type that transformers lists under a task."""
    from transformers.models.auto import modeling_auto

    named = getattr(modeling_auto, _MAPPINGS[task])
    return {kind: name if isinstance(name, str) else name[0] for kind, name in named.items()}


def model_class(model_type: str, task: Task) -> type[PreTrainedModel]:
    """Return the class that transformers builds for a type and a task.

    Raises:
        AttributeError: if a package that the class needs is not installed.
    """
    import transformers

    found: type[PreTrainedModel] = getattr(transformers, class_names(task)[model_type])
    return found


def all_types(tasks: tuple[Task, ...] = TASKS) -> list[str]:
    """Return every type that has at least one of the tasks, in alphabetical order."""
    return sorted({kind for task in tasks for kind in class_names(task)})


def tasks_of(model_type: str) -> list[Task]:
    """Return the tasks that transformers lists a type under, the one it is mainly used for first.

    That is the order of :data:`TASKS`, but an encoder-decoder comes as one, and an encoder that
    can also be configured as a decoder (BERT) as a classifier: what was trained on masked words.
    """
    tasks = [task for task in TASKS if model_type in class_names(task)]
    for task in ("seq2seq", "classification"):
        if task in tasks and _is_mainly(task, model_type):
            tasks.remove(task)
            tasks.insert(0, task)
            break
    return tasks


def choose(types: Sequence[str], tasks: Sequence[Task]) -> list[tuple[str, Task]]:
    """Return which types to examine on which tasks.

    Args:
        types: names of types; empty for all that have one of the tasks.
        tasks: each type is examined on all of these that it has; empty for the one task that it is
            mainly used for.

    Raises:
        ConfigError: if there is no such type, or it has none of the tasks.
    """
    known = all_types()
    faults = [not_one_of("types", name, known) for name in types if name not in known]
    if faults:
        raise ConfigError(faults)
    if not tasks:
        return [(name, tasks_of(name)[0]) for name in types or known]
    listed = {task: class_names(task) for task in tasks}
    for name in types:
        if not any(name in names for names in listed.values()):
            faults.append(
                f"tasks must hold one that {name!r} is listed under ({', '.join(tasks_of(name))}),"
                f" got {', '.join(tasks)}"
            )
    if faults:
        raise ConfigError(faults)
    return [(name, task) for name in types or known for task in tasks if name in listed[task]]


def _is_mainly(task: Task, model_type: str) -> bool:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    if task == "seq2seq":
        return getattr(CONFIG_MAPPING[model_type], "is_encoder_decoder", False) is True
    return model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
