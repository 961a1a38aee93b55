"""Conversations to learn from: chat messages, ShareGPT's and Alpaca's columns.

The last answer of the assistant is the target, and the turns before it are the prompt. A tokenizer
with a chat template writes the prompt in its own form. For others, and in files that people read,
it has a line for each turn, and the beginning of the answer::

    System: Be brief.
    User: What is the capital of France?
    Assistant:
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.base import Example, Turn
from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import read_rows

_ANSWERS: Final = "assistant"
_CHAT_ROLES: Final = {name: name for name in ("system", "developer", "user", _ANSWERS)}
_SHAREGPT_ROLES: Final = {
    **_CHAT_ROLES,
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model"), _ANSWERS),
}


@dataclass(frozen=True)
class Form:
    """How the columns of a row hold a conversation.

    Attributes:
        name: in words.
        columns: those that it is known by.
        turns: reads a row; raises ConfigError with the rule that the row breaks.
    """

    name: str
    columns: tuple[str, ...]
    turns: Callable[[Mapping[str, Any]], list[Turn]]


def find_form(columns: Sequence[str]) -> Form | None:
    """Return the form whose columns are there; ``None`` if there is none."""
    return next((form for form in FORMS if {*form.columns} <= {*columns}), None)


def read_conversations(
    path: Path, form: Form, faults: FileFaults, *, is_open: bool = False
) -> tuple[list[Example], str]:
    """Read a file; broken rows are left out and recorded in ``faults``.

    Args:
        path: the file.
        form: of its conversations.
        faults: of the file.
        is_open: a conversation that does not end with an answer is a prompt without a label.

    Returns:
        The examples, and a sentence on how they were read.
    """
    examples, cut = [], 0
    for row in read_rows(path, (), faults):
        try:
            turns = form.turns(row.values)
            if is_open and turns and turns[-1][0] != _ANSWERS:
                examples.append(conversation(turns, ""))
                continue
            last = _last_answer(turns)
        except ConfigError as error:
            faults.add(str(error), row.line)
            continue
        examples.append(conversation(turns[:last], turns[last][1]))
        cut += last + 1 < len(turns)
    left_out = f"; {cut:,} have turns after the last answer, which are left out" if cut else ""
    return examples, f"{path}: read as {form.name}, {len(examples):,} conversations{left_out}"


def conversation(turns: Sequence[Turn], answer: str) -> Example:
    """Return the example of a conversation and the answer that follows it."""
    lines = [f"{role.capitalize()}: {content.strip()}" for role, content in turns]
    text = "\n".join((*lines, f"{_ANSWERS.capitalize()}:"))
    return Example((text,), answer, turns=tuple(turns))


def _last_answer(turns: Sequence[Turn]) -> int:
    answers = [index for index, (role, _) in enumerate(turns) if role == _ANSWERS]
    got = ", ".join(role for role, _ in turns) or "none"
    if not answers:
        raise ConfigError(f"must have a turn of the assistant, got {got}; delete the row")
    if not answers[-1]:
        raise ConfigError(f"must have a turn before the answer, got {got}; delete the row")
    return answers[-1]


def _messages(
    column: str, keys: tuple[str, str], roles: Mapping[str, str], values: Mapping[str, Any]
) -> list[Turn]:
    found = values.get(column)
    if isinstance(found, str):  # as a CSV file has it
        with suppress(ValueError, RecursionError):
            found = json.loads(found)
    shape = f"{{{keys[0]}, {keys[1]}}}"
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ConfigError(f"column {column!r} must be a list of {shape}, got {_short(found)}; fix")
    return [
        (_role(message.get(keys[0]), roles, f"{column}[{index}].{keys[0]}"), content)
        for index, message in enumerate(found)
        if (content := _content(message, keys, f"{column}[{index}].{keys[1]}"))
    ]


def _role(role: object, roles: Mapping[str, str], place: str) -> str:
    if not isinstance(role, str) or role not in roles:
        known = ", ".join(roles)
        raise ConfigError(f"{place} must be one of {known}, got {_short(role)}; delete the row")
    return roles[role]


def _content(message: Mapping[str, Any], keys: tuple[str, str], place: str) -> str:
    """The text of a turn; a system's may be empty, and is left out then."""
    content = message.get(keys[1])
    if isinstance(content, str) and (content.strip() or message.get(keys[0]) == "system"):
        return content if content.strip() else ""
    raise ConfigError(f"{place} must be text, got {_short(content)}; fill it in or delete the row")


def _instruction(values: Mapping[str, Any]) -> list[Turn]:
    said = {"input": "", **{name: text for name, text in values.items() if text is not None}}
    for name in ("instruction", "output", "input"):
        text = said.get(name)
        if not isinstance(text, str) or not (text.strip() or name == "input"):
            raise ConfigError(f"column {name!r} must hold text, got {_short(text)}; fill it in")
    asked = "\n\n".join(filter(str.strip, (said["instruction"], said["input"])))
    return [("user", asked), (_ANSWERS, said["output"])]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


FORMS: Final = (
    Form(
        "chat messages",
        ("messages",),
        partial(_messages, "messages", ("role", "content"), _CHAT_ROLES),
    ),
    Form(
        "ShareGPT conversations",
        ("conversations",),
        partial(_messages, "conversations", ("from", "value"), _SHAREGPT_ROLES),
    ),
    Form("Alpaca instructions", ("instruction", "output"), _instruction),
)
