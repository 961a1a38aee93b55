"""From examples to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks import Example, Kind

Encoded = list[dict[str, Any]]
_IGNORED = -100  # a label that no loss counts
_SHORTEST_TARGET = 8  # tokens that a prompt must leave room for


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, kind: Kind
) -> Encoded:
    """Turn examples into token ids, without padding; inputs are cut at ``max_length`` tokens.

    Raises:
        ConfigError: if a prompt leaves no room for its target, or a text has no token.
    """
    if kind == "generation":
        return _prompts_and_targets(examples, tokenizer, max_length)
    columns = list(zip(*(example.texts for example in examples), strict=True))
    tokens = tokenizer(*map(list, columns), truncation=True, max_length=max_length)
    own = tokenizer.num_special_tokens_to_add(pair=len(columns) > 1)
    _refuse_empty(examples, tokens["input_ids"], own)
    return [
        {name: values[index] for name, values in tokens.items()} | {"labels": example.label}
        for index, example in enumerate(examples)
    ]


def _refuse_empty(examples: Sequence[Example], tokens: Sequence[Sequence[int]], own: int) -> None:
    """Refuse texts of which the model would see nothing but the ``own`` tokens of the tokenizer."""
    lengths = zip(examples, map(len, tokens), strict=True)
    if empty := [example.texts for example, length in lengths if length <= own]:
        raise ConfigError(
            f"every text must have a token of the model's, {len(empty)} of {len(examples)} have"
            f" none, the first is {empty[0]!r}; delete these examples"
        )


def collator(tokenizer: PreTrainedTokenizerBase, kind: Kind) -> Any:
    """Return what pads examples to a batch; padded labels count in no loss."""
    if kind == "generation":
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=_IGNORED)
    return DataCollatorWithPadding(tokenizer)


def prompt_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that a model completes.

    A conversation is written by the tokenizer's chat template, if it has one, up to the beginning
    of the answer. What the tokenizer itself puts before each text is left out.

    Raises:
        ConfigError: if the template refuses the conversation.
    """
    if not _by_template(example, tokenizer):
        return example.texts[0]
    text = _templated(example, tokenizer, add_generation_prompt=True)
    first = tokenizer("")["input_ids"][:1]
    adds_own = bool(first) and first == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_own else text


def _target_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """What follows the prompt; of a conversation with the mark that its template ends a turn by."""
    if not _by_template(example, tokenizer):
        return f" {example.label}"
    prompt = _templated(example, tokenizer, add_generation_prompt=True)
    whole = _templated(example, tokenizer, answer=str(example.label))
    return whole.removeprefix(prompt).rstrip() if whole.startswith(prompt) else str(example.label)


def _by_template(example: Example, tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(example.turns and tokenizer.chat_template)


def _templated(
    example: Example, tokenizer: PreTrainedTokenizerBase, answer: str = "", **how: bool
) -> str:
    turns = (*example.turns, *([("assistant", answer)] if answer else ()))
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception as error:  # a template raises what it likes
        roles = ", ".join(role for role, _ in turns)
        raise ConfigError(
            f"the model's chat template must take every conversation, got turns of {roles}"
            f" ({error}); change or delete such rows"
        ) from error


def _prompts_and_targets(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Encoded:
    """A prompt, its target and the end of the text, one after another; only the target is labelled.

    The two are tokenised apart, so that a prompt has the same tokens when a target is generated.
    """
    prompts = tokenizer([prompt_of(example, tokenizer) for example in examples])["input_ids"]
    answers = [_target_of(example, tokenizer) for example in examples]
    targets = tokenizer(answers, add_special_tokens=False)
    _refuse_empty(examples, prompts, tokenizer.num_special_tokens_to_add())
    longest = max(map(len, prompts))
    if longest + _SHORTEST_TARGET > max_length:
        raise ConfigError(
            f"max_length must leave {_SHORTEST_TARGET} tokens for the target, got {max_length} with"
            f" a prompt of {longest} tokens; give at least {longest + _SHORTEST_TARGET}"
        )
    rows = []
    for prompt, target in zip(prompts, targets["input_ids"], strict=True):
        end = [] if target[-1:] == [tokenizer.eos_token_id] else [tokenizer.eos_token_id]
        tokens = [*prompt, *target, *end][:max_length]
        labels = [_IGNORED] * len(prompt) + tokens[len(prompt) :]
        rows.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels})
    return rows
