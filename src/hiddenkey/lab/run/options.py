"""Every setting of a training run, with its unit.

The text under a field is its help on the command line.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

from hiddenkey.lab.run.limits import ABOVE_ZERO, BELOW_ONE, ONE, ZERO, Limit
from hiddenkey.lab.run.naming import run_name
from hiddenkey.lab.tasks import Source

UNRECORDED: Final = ("output", "resume", "overwrite", "trust_remote_code", "push_to_hub")
"""Settings that say what to do with the run folder or whom to trust, not what the run is."""

_HELD_OUT: Final = Limit("in (0, 1)", lambda value: 0 < value < 1, "0.2 is usual")
_PART: Final = Limit("in (0, 1]", lambda value: 0 < value <= 1, "0.5 is the last half")
_DECAY: Final = Limit("in (0, 1)", lambda value: 0 < value < 1, "0.99 looks back 100 steps")
_TOKENS: Final = Limit("at least 4 tokens", lambda value: value >= 4, "128 is usual")
_SEED: Final = Limit("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32, "choose another")
_FINITE: Final = Limit("a finite number", lambda value: abs(value) < math.inf, "0.9 is usual")


@dataclass(frozen=True)
class TrainOptions(Source):
    """One training run."""

    # the first setting of each group of the help, and the group's title
    sections = (
        ("data", "data"),
        ("model", "model and adapter"),
        ("task", "data"),
        ("method", "method"),
        ("adapter", "model and adapter"),
        ("learning_rate", "training"),
        ("inference", "what is used at inference"),
        ("evaluations", "evaluation and generation"),
        ("seed", "training"),
        ("keep", "run folder"),
    )

    model: str = "minilm"
    """Local folder, .gguf file, name on the Hugging Face hub, or bundled: 'minilm', 'mpnet',
    'smollm2', 'gemma3-270m'."""
    trust_remote_code: bool = False
    """Run code that the model's folder brings along; it can do whatever you can, so read it."""
    task: str = "headlines"
    """headlines, articles (bundled), cola, mrpc, qnli, rte, sst2, stsb, trec, subj, mr, cr, irony,
    emotion, clinc150, e2e, webnlg (need --data), file (your own labelled texts) or completion (your
    own prompts, or conversations)."""
    train_size: int | None = ONE.default(None)
    """Training examples, drawn with equal shares per class; none: all."""
    eval_size: int | None = ONE.default(None)
    """Evaluation examples; the same ones for every seed; none: all."""
    holdout: float | None = _HELD_OUT.default(None)
    """Share of the training examples to hold out and evaluate on, in (0, 1), in place of evaluation
    examples: for a single file of your own, or for choosing settings. Equal texts stay together."""
    validation: float | None = _HELD_OUT.default(None)
    """Share of what --holdout leaves to hold out in its turn and evaluate on, in (0, 1): how the
    search of a plan chooses settings without a look at the examples of the comparison."""
    data_seed: int = ZERO.default(0, "choose another")
    """Seed of the draws of --train-size, --holdout and --validation, independent of --seed."""
    resample: bool = False
    """Draw the training examples of --train-size anew for each --seed, so that a comparison speaks
    of more than one draw; the evaluation examples stay the same."""
    max_length: int = _TOKENS.default(128)
    """Longest input in tokens, with the target for generation; longer texts are cut."""

    method: str = "hiddenkey"
    """Dropout method; 'hiddenkey methods' lists them."""
    also: tuple[str, ...] = ()
    """Further methods whose drops are added to it, for example cutoff output-dropout."""
    rate: float | None = None
    """Dropout rate of all positions of the method, in [0, 1); none: the method's own."""
    rates: dict[str, float] = field(default_factory=dict)
    """Dropout rate by position, for example --rates.hidden 0.2; wins over --rate."""
    rate_warmup: float = BELOW_ONE.default(0.0, "0 has the whole rate at once")
    """Share of the steps in which the dropout rates rise from 0, in [0, 1)."""
    rate_decay: Literal["constant", "linear", "cosine"] = "constant"
    """What the dropout rates do after that: stay constant, or go down to 0 in the last step."""
    rate_depth: Literal["flat", "growing", "falling"] = "flat"
    """Dropout rates by layer: equal, or from a small one in the first (last) layer to the whole."""
    consistency_weight: float | None = None
    """Weight of the consistency loss, relative to the task loss; none: the method's own."""
    consistency_every: int | None = None
    """Consistency loss in every n-th step only (n times as heavy); none: each step."""
    consistency_fraction: float | None = None
    """Share of a batch in the consistency loss, in (0, 1]; none: the method's own."""
    consistency_backward: Literal["one", "both"] | None = None
    """Branches that the consistency loss back-propagates through; none: the method's own."""
    consistency_precision: Literal["same", "bfloat16"] | None = None
    """Number format of the loss's pass without gradient: bfloat16 takes a third of the time on
    processors that have it; none: the model's."""
    consistency_momentum: float | None = None
    """Share of the earlier predictions in the running mean that the temporal loss compares with, in
    [0, 1); none: the method's own, most often 0, the last prediction alone."""
    consistency_top: int | None = None
    """Most likely tokens that the temporal loss keeps of each prediction of a language model; none:
    16."""
    layers: tuple[int, ...] | None = None
    """Indices of the layers that drop, from 0; none: all."""
    share_heads: bool = False
    """One attention mask for all heads of a sample."""
    keep_first: bool = True
    """In causal models, never drop the first key of a sequence."""
    keep_model_dropout: bool = False
    """Leave the model's own dropout on."""
    kernel: Literal["auto", "reference", "fused"] = "auto"
    """Attention path: auto takes the fused one where it is possible."""

    adapter: Literal["lora", "dora", "ia3", "prefix", "full"] = "lora"
    """What is trained beside a classifier's head: an adapter of PEFT, or all weights of the model
    (full)."""
    rank: int = ONE.default(8)
    """Rank of the matrices of LoRA and DoRA."""
    lora_alpha: int = ONE.default(16)
    """LoRA's alpha, and DoRA's: the update is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers that get LoRA, DoRA or IA3; none: the key and value projections,
    for IA3 the feed-forward outputs too."""
    prefix_tokens: int = ONE.default(16)
    """Virtual tokens of prefix tuning."""
    lora_dropout: float = BELOW_ONE.default(0.0)
    """PEFT's own dropout on the input of LoRA or DoRA, in [0, 1)."""

    learning_rate: float = ABOVE_ZERO.default(1e-3, "1e-3 is usual for LoRA")
    """Largest learning rate (AdamW)."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Shape of the learning rate over the steps."""
    warmup_ratio: float = BELOW_ONE.default(0.06, "0.06 is usual")
    """Share of the steps in which the learning rate rises, in [0, 1)."""
    weight_decay: float = ZERO.default(0.0)
    """AdamW's weight decay."""
    neftune_alpha: float = ZERO.default(0.0)
    """NEFTune (arXiv 2310.05914): uniform noise on the input embeddings, at most alpha / √(tokens ·
    features), by transformers' Trainer; 0: none."""
    mixup_alpha: float = ZERO.default(0.0)
    """Mixup of input embeddings (arXiv 1905.08941): each example is mixed with another of its batch
    by a share of Beta(alpha, alpha), in classification and regression; 0: none."""
    sam_rho: float = ZERO.default(0.0)
    """Sharpness-aware minimisation (arXiv 2010.01412): each step's gradient is taken at a distance
    of rho up the loss, by pytorch_optimizer, for the price of two steps; 0: none, 0.05 is usual."""
    epochs: float = ABOVE_ZERO.default(10.0)
    """Passes over the training examples."""
    max_steps: int | None = ONE.default(None)
    """Optimiser steps; replaces --epochs."""
    batch_size: int = ONE.default(32)
    """Examples per forward pass."""
    gradient_accumulation: int = ONE.default(1)
    """Forward passes per optimiser step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: frozen weights and activations in bfloat16, trained weights in float32."""
    quantize: Literal["none", "4bit", "8bit"] = "none"
    """Frozen weights of the linear layers in 4 (as QLoRA) or 8 bits, by bitsandbytes; none: in
    --precision."""

    inference: Literal["last", "average", "ema", "chosen"] = "last"
    """Weights that are evaluated and left: those of the last step, their mean over the last part
    of the training, an exponential mean, or what has the smallest loss on held-out training
    examples: of these three, and of LoRA's update made smaller."""
    average_part: float = _PART.default(0.5)
    """Last part of the training whose weights are averaged, in (0, 1]."""
    ema_decay: float = _DECAY.default(0.99)
    """Decay of the exponential mean a step, in (0, 1)."""
    temperature: Literal["none", "fitted"] = "none"
    """fitted: divide a classifier's logits by the number that makes the loss on held-out training
    examples smallest. Labels stay; probabilities, the loss after it and its calibration change."""
    choice_share: float = _HELD_OUT.default(0.2)
    """Share of the training examples that chosen and fitted hold out of the training, in (0, 1)."""

    evaluations: int = ONE.default(5)
    """Evaluations, spread evenly over the steps; the last is at the last step."""
    eval_batch_size: int = ONE.default(64)
    """Examples per forward pass of an evaluation."""
    beams: int = ONE.default(10)
    """Beams of the search that generates text; 1: greedy."""
    length_penalty: float = _FINITE.default(0.9)
    """Exponent of the length by which a beam's score is divided; larger: longer texts."""
    no_repeat_ngram: int = ZERO.default(4)
    """No sequence of so many tokens twice in a generated text; 0: allowed."""
    max_new_tokens: int = ONE.default(64)
    """Longest generated text in tokens."""
    generation_batch_size: int = ONE.default(8)
    """Prompts per batch when text is generated."""
    log_every: int | None = ONE.default(None)
    """Steps between two logged losses; none: logged at each evaluation."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers that transformers knows, for example tensorboard."""

    seed: int = _SEED.default(0)
    """Seed of new weights, data order and dropout."""
    keep: Literal["last", "best"] = "last"
    """Evaluation whose weights become the run's adapter: the last, on which a report's verdict
    rests, or the best by the main metric (for generation, and of equal ones, by the loss)."""
    output: str | None = None
    """Run folder; none: runs/TASK-MODEL-METHOD-seedN with what differs from the defaults in its
    name."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder. --resume FOLDER needs no other setting."""
    overwrite: bool = False
    """Replace an earlier run in the run folder."""
    push_to_hub: str | None = None
    """Name on the Hugging Face hub, USER/NAME, to upload the adapter to after the run; a new
    repository is private."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.output is not None:
            return Path(self.output)
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        return Path("runs") / run_name(self.recorded(), {**defaults, "rates": {}})

    def recorded(self) -> dict[str, Any]:
        """The settings that make the run what it is, as plain YAML types.

        A number is of its setting's type, however it was written: 10 epochs are 10.0 epochs.
        """
        return {
            name: _plain(value, name in _fractions())
            for name, value in dataclasses.asdict(self).items()
            if name not in UNRECORDED
        }


def _plain(value: Any, fraction: bool) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if fraction and isinstance(value, dict):
        return {name: _plain(each, fraction) for name, each in value.items()}
    return float(value) if fraction and type(value) is int else value


@cache
def _fractions() -> frozenset[str]:
    """The settings whose numbers are floats, single or by name."""
    hints = get_type_hints(TrainOptions).items()
    return frozenset(n for n, hint in hints if hint is float or float in get_args(hint))
