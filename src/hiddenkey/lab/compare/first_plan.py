"""A first plan for a file of one's own: a commented YAML file that can be run as it is."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.compare.prospects import SEEDS, assumed, usual_seeds
from hiddenkey.lab.evidence.planning import Design
from hiddenkey.lab.plans.attached import default_of
from hiddenkey.lab.plans.data import Data, check
from hiddenkey.lab.plans.guess import Guess, guess
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.tasks import Example, Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA: Final = Path(__file__).parents[1] / "plans" / "plan.schema.json"
"""What an editor needs to complete and check a plan."""

_METHODS: Final = ("lora", "hiddenkey-minus", "hiddenkey")
_HOLDOUT: Final = 0.2
_MOST_TRAINED, _MOST_JUDGED = 2000, 1000
_STEPS: Final = {"file": 150, "completion": 100}
_BATCH: Final = {"file": 32, "completion": 8}
_TOKENS_PER_WORD: Final = 1.4
"""Of texts, where there is no tokenizer to ask."""

_SHORTEST: Final = 16
"""Tokens that any model has room for, until the lengths of the texts are known."""

_WIDTH: Final = 98
_FIRST: Final = ("tasks", "models", "methods", "rates", "seeds")


@dataclass
class _Settings:
    """Settings in the order in which they are written, each with a comment or none."""

    values: dict[str, Any]
    comments: dict[str, str]

    def add(self, name: str, value: Any, comment: str = "") -> None:
        """Add a setting unless the user gave it."""
        if name not in self.values:
            self.values[name] = value
            self.comments[name] = comment


def write_first_plan(given: Plan) -> tuple[Path, list[str]]:
    """Write the plan for the file ``given.init``; what else the plan holds is taken over.

    Returns:
        The new file, and what its data hold.

    Raises:
        ConfigError: with every fault of the file, or if there is a plan already.
    """
    source = Path(given.init or "")
    path = Path(f"{source.stem}.compare.yaml")
    if path.exists():
        raise ConfigError(f"init must not overwrite a plan, got {str(path)!r}; rename or delete it")
    found = guess(source, given.common)
    plan, common, data = _fitted(given, source, found)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_text(source, path, plan, common))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); change folder") from error
    return path, [*data.described(), *filter(None, [found.unused])]


def first_plan(given: Plan) -> Plan:
    """Return the plan for the file ``given.init`` without writing it.

    Raises:
        ConfigError: with every fault of the file.
    """
    source = Path(given.init or "")
    plan, common, _ = _fitted(given, source, guess(source, given.common))
    return _plan(plan, common)


def _fitted(given: Plan, source: Path, found: Guess) -> tuple[_Settings, _Settings, Data]:
    """The plan, the settings of its runs, and their data."""
    plan, common = _outline(given, source, found)
    lengths = ("max_length", "max_new_tokens") if found.task == "completion" else ("max_length",)
    short = _Settings({**dict.fromkeys(lengths, _SHORTEST), **common.values}, {})
    data = check(_plan(plan, short))
    splits = data.splits(_plan(plan, short).settings()[0])
    _fit_sizes(common, splits, found.task)
    _fit_lengths(common, splits, found.task, plan.values["models"][0])
    _fit_seeds(plan, splits, found, len(_plan(plan, common).settings()) - 1)
    check(_plan(plan, common))
    return plan, common, data


def next_command(path: Path) -> str:
    """The command that runs a plan."""
    return f"hiddenkey compare {shlex.quote(str(path))}"


def _plan(plan: _Settings, common: _Settings) -> Plan:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in plan.values.items()
    }
    return Plan(**values, common=common.values)


def _outline(given: Plan, source: Path, found: Guess) -> tuple[_Settings, _Settings]:
    """The plan and the settings of its runs, so far as they do not depend on sizes and lengths."""
    is_text = found.task == "completion"
    changed = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(given)
        if (value := getattr(given, field.name)) != default_of(field)
    }
    own = {n: v for n, v in changed.items() if n not in ("init", "dry_run", "common")}
    plan = _Settings(own, {})
    plan.add("tasks", [found.task])
    plan.add("models", ["smollm2" if is_text else "minilm"], "The bundled model; a folder or a"
             " name on the Hugging Face hub does as well.")  # fmt: skip
    plan.add("methods", [*_METHODS], "Plain LoRA, and HiddenKey without and with its consistency"
             " loss; 'hiddenkey methods' lists all.")  # fmt: skip
    if not given.search:  # which chooses them
        plan.add("rates", [0.1])
    plan.add("workers", min(2, os.cpu_count() or 1), "Runs at the same time.")
    plan.add("output", f"runs/{source.stem}")
    common = _Settings(dict(given.common), {})
    why = filter(None, [found.reasons.get("train_file", ""), found.unused])
    common.add("train_file", str(source), "; ".join(why))
    for name, value in found.settings.items():
        common.add(name, value, found.reasons[name])
        common.comments[name] = found.reasons[name]
    if "eval_file" not in common.values:
        common.add("holdout", _HOLDOUT, "There is no file to evaluate on, so a share of the rows is"
                   " held out: the same for all runs, by class, equal texts on one side. With an"
                   " eval_file leave it out.")  # fmt: skip
    return plan, common


def _fit_sizes(common: _Settings, splits: Splits, task: str) -> None:
    """Limit what is trained and judged on, and train for about as many steps whatever the size."""
    trained, judged = len(splits.train), len(splits.evaluation)
    if trained > _MOST_TRAINED:
        common.add("train_size", _MOST_TRAINED, f"Of {trained:,}, for a first look; leave it out to"
                   " train on all.")  # fmt: skip
    if judged > _MOST_JUDGED:
        common.add("eval_size", _MOST_JUDGED, f"Of {judged:,}.")
    batch = common.values.get("batch_size", _BATCH[task])
    size = common.values.get("train_size", trained)
    steps = math.ceil(size / batch)
    epochs = min(20, max(2, round(_STEPS[task] / steps)))
    common.add("epochs", epochs, f"{steps * epochs:,} steps of {batch} examples.")
    common.add("batch_size", batch)
    common.add("learning_rate", 0.001, "Usual for LoRA; a search can choose it for each method, see"
               " recipes/compare_search.yaml.")  # fmt: skip
    common.add("evaluations", 5 if task == "file" else 3)


def _fit_lengths(common: _Settings, splits: Splits, task: str, model: str) -> None:
    """Choose how many tokens of a text are read, and written, by the lengths in the data."""
    tokenizer = _tokenizer(model)
    how = "by the model's tokenizer" if tokenizer else f"estimated, {_TOKENS_PER_WORD} a word"
    examples = (*splits.train, *splits.evaluation)
    if task == "file":
        lengths = sorted(_lengths([e.texts for e in examples[:5000]], tokenizer))
        usual = lengths[int(0.98 * (len(lengths) - 1))]
        common.add("max_length", min(256, _round_up(usual)), f"98 of 100 texts have at most {usual}"
                   f" tokens ({how}), the longest {lengths[-1]}; longer ones are cut.")  # fmt: skip
        return
    prompts = _prompt_lengths(examples, tokenizer)
    answers = sorted(_lengths([(str(e.label),) for e in examples], tokenizer))
    usual = answers[int(0.98 * (len(answers) - 1))]
    common.add("max_length", _round_up(max(prompts) + max(8, usual) + 2), f"The longest prompt has"
               f" {max(prompts)} tokens ({how}), 98 of 100 answers at most {usual}.")  # fmt: skip
    common.add("max_new_tokens", _round_up(usual), "Longest text that is generated.")
    common.add("beams", 1, "Greedy, which is quick; 10 as in the LoRA paper.")


def _tokenizer(model: str) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, if it lies on this machine."""
    from hiddenkey.lab.run.models import model_source
    from hiddenkey.quiet import quiet

    quiet()
    with suppress(Exception):  # whatever is wrong with the model is told when it is trained
        from transformers import AutoTokenizer

        name, how = model_source(model)
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, local_files_only=True, **how
        )
        return found
    return None


def _lengths(
    texts: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase | None
) -> list[int]:
    """Tokens of each text or pair of texts."""
    if tokenizer is None:
        words = [sum(len(text.split()) for text in each) for each in texts]
        return [math.ceil(_TOKENS_PER_WORD * each) + 3 for each in words]
    return [len(ids) for ids in tokenizer(*map(list, zip(*texts, strict=True)))["input_ids"]]


def _prompt_lengths(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None
) -> list[int]:
    from hiddenkey.lab.run.encoding import prompt_of

    prompts = [prompt_of(each, tokenizer) if tokenizer else each.texts[0] for each in examples]
    return _lengths([(prompt,) for prompt in prompts], tokenizer)


def _round_up(tokens: int) -> int:
    """The next multiple of 8, at least 16."""
    return max(_SHORTEST, 8 * math.ceil(tokens / 8))


def _fit_seeds(plan: _Settings, splits: Splits, found: Guess, comparisons: int) -> None:
    """Choose seeds that can reach a verdict, and say which differences they show."""
    judged = min(len(splits.evaluation), _MOST_JUDGED)
    why = "With fewer than six, differences that are all equal would show nothing."
    if found.task != "file" or found.settings.get("regression"):
        plan.add("seeds", list(range(SEEDS[0])), f"{why} --dry-run says more when some are done.")
        return
    deviation = assumed(judged).deviation
    count = len(plan.values.get("seeds", range(usual_seeds(judged, comparisons))))
    shown = 100 * Design(count, deviation, family=max(1, comparisons)).detectable()
    plan.add("seeds", list(range(count)))
    plan.comments["seeds"] = (
        f"{why} {count} seeds show differences from about {shown:.1f} percentage points on, where a"
        f" seed's difference varies by {100 * deviation:.1f}, as is assumed for {judged} evaluation"
        " examples."
    )


def _text(source: Path, path: Path, plan: _Settings, common: _Settings) -> str:
    head = f"Plain LoRA against HiddenKey on {source.name}, written by 'hiddenkey compare --init'."
    lines = [
        f"# yaml-language-server: $schema={SCHEMA.as_uri()}",
        *_comment(f"{head} Change what you like; docs/PLANS.md explains every key."),
        "#",
        "#   "
        + next_command(path)
        + " --dry-run    # what the seeds can show, and the time it takes",
        "#   " + next_command(path),
        *_lines(plan, [name for name in _FIRST if name in plan.values]),
        "common:",
        *(f"  {line}" for line in _lines(common, common.values)),
        *_lines(plan, [name for name in plan.values if name not in _FIRST]),
    ]
    return "\n".join(lines) + "\n"


def _lines(settings: _Settings, names: Iterable[str]) -> list[str]:
    lines = []
    for name in names:
        lines += _comment(settings.comments.get(name, ""))
        lines.append(f"{name}: {_inline(settings.values[name])}")
    return lines


def _comment(text: str) -> list[str]:
    plain = "".join(
        letter if letter.isprintable() else " " for letter in text
    )  # YAML takes no other
    return [f"# {line}" for line in textwrap.wrap(plain[:1].upper() + plain[1:], _WIDTH - 2)]


def _inline(value: Any) -> str:
    """A value as YAML in one line."""
    import yaml

    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False
    )
    return text.removesuffix("...\n").strip()
