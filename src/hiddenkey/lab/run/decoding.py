"""Generating text with a trained language model, by transformers' beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hiddenkey.lab.run.options import TrainOptions


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: TrainOptions,
    progress: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Complete each prompt and return the completions, without the prompts.

    Prompts of like length share a batch. Decoding is that of the LoRA paper unless the options say
    otherwise: beam search with a length penalty, no n-gram twice.

    Args:
        model: a causal language model; it is left in the mode it was in.
        tokenizer: its tokenizer.
        prompts: the texts to complete.
        options: ``beams``, ``length_penalty``, ``no_repeat_ngram``, ``max_new_tokens`` and
            ``generation_batch_size``.
        progress: is told how many more prompts are done.
    """
    lengths = [len(tokens) for tokens in tokenizer(list(prompts))["input_ids"]]
    in_order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
    found = [""] * len(prompts)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(in_order), options.generation_batch_size):
            batch = in_order[start : start + options.generation_batch_size]
            texts = _complete(model, tokenizer, [prompts[index] for index in batch], options)
            for index, text in zip(batch, texts, strict=True):
                found[index] = text
            progress(len(batch))
    finally:
        model.train(was_training)
    return found


class NoRepeatInCompletion(NoRepeatNGramLogitsProcessor):  # type: ignore[misc]
    """Forbids an n-gram twice in what is generated; what the prompt says may be said again."""

    def __init__(self, size: int, prompt_length: int) -> None:
        super().__init__(size)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores ``[beams, vocabulary]`` with those of repeating tokens at -inf."""
        chosen: Tensor = super().__call__(input_ids[:, self._prompt_length :], scores)
        return chosen


def _complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    options: TrainOptions,
) -> list[str]:
    tokens = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    tokens = {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}
    prompt_length = tokens["input_ids"].shape[1]
    processors = LogitsProcessorList()
    if options.no_repeat_ngram:
        processors.append(NoRepeatInCompletion(options.no_repeat_ngram, prompt_length))
    with torch.no_grad():
        output = model.generate(
            **tokens,
            do_sample=False,
            num_beams=options.beams,
            length_penalty=options.length_penalty if options.beams > 1 else None,
            logits_processor=processors,
            max_new_tokens=options.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            use_cache=True,
        )
    new = output[:, prompt_length:]
    # one line for each: the files that scorers read know no other separator
    return [
        " ".join(text.split()) for text in tokenizer.batch_decode(new, skip_special_tokens=True)
    ]
