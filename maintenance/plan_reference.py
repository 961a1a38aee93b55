"""Write what editors and people need to know of plans: a JSON schema and docs/PLANS.md.

Both come from the dataclasses that read a plan, with their types, defaults, limits and the texts
under their fields.

    python maintenance/plan_reference.py
"""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

import docstring_parser

from hiddenkey.lab.compare.first_plan import SCHEMA
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import SEARCHABLE, TEXTS, Search
from hiddenkey.lab.plans.settings import RESERVED
from hiddenkey.lab.run.options import TrainOptions

PAGE = Path(__file__).parents[1] / "docs" / "PLANS.md"
COMMAND = "python maintenance/plan_reference.py"
NOT_IN_FILES = ("init",)
"""Settings that write a plan, and do not belong into one."""

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}

EXAMPLE = """\
tasks: [file]
models: [minilm]
methods: [lora, hiddenkey-minus, hiddenkey]
rates: [0.1]
seeds: [0, 1, 2, 3, 4, 5]
common:
  train_file: my.csv
  text_columns: [text]
  label_column: label
  holdout: 0.2
  max_length: 64
  epochs: 10
  learning_rate: 0.001
workers: 2
output: runs/my
"""

INTRODUCTION = f"""\
# Plans of comparisons

<!-- written by {COMMAND} -->

A plan says what `hiddenkey compare` trains: every combination of its tasks, models, methods,
rates, ranks and seeds is one run. For a file of your own, the first command writes such a plan
with a reason for each setting. The second says what its seeds can show and how long it takes
here. The third runs it.

    hiddenkey compare --init my.csv
    hiddenkey compare my.compare.yaml --dry-run
    hiddenkey compare my.compare.yaml

```yaml
{EXAMPLE}```

- Settings of all runs stand under `common:`. Those under `per_task:` win over them, and those under
  `per_method:` win over both:

```yaml
common: {{epochs: 10}}
per_task:
  cola: {{max_length: 64}}
per_method:
  hiddenkey: {{consistency_weight: 0.5}}
```

- Each key is a flag as well, and flags win over the file: `--seeds 0 1 2`, `--common.epochs 3`,
  `--per-task.cola.max_length 64`.
- An editor with a YAML language server completes and checks a plan whose first line names the
  schema, as `--init` writes it: `# yaml-language-server: $schema=FILE`. The schema comes with the
  package, as `lab/plans/{SCHEMA.name}`.
- `hiddenkey recipes` lists plans to copy.
"""


def schema() -> dict[str, Any]:
    """The JSON schema of a plan."""
    run = _object(TrainOptions, without=RESERVED)
    search = _object(Search)
    bounds = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    words = {
        name: {"type": "array", "items": {"enum": list(known)}, "minItems": 2}
        for name, known in TEXTS.items()
    }
    search["properties"]["space"] |= {
        "properties": {**dict.fromkeys(SEARCHABLE, bounds), **words},
        "additionalProperties": {"type": "array", "minItems": 2},  # arguments of a command
    }
    plan = _object(Plan, without=NOT_IN_FILES)
    of_run = {"$ref": "#/definitions/run"}
    for name, own in {
        "common": {"allOf": [of_run]},
        "per_task": {"type": "object", "additionalProperties": of_run},
        "per_method": {"type": "object", "additionalProperties": of_run},
        "search": {"anyOf": [{"type": ["boolean", "null"]}, {"$ref": "#/definitions/search"}]},
    }.items():
        plan["properties"][name] = own | {"description": texts(Plan)[name]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A plan of hiddenkey compare",
        **plan,
        "definitions": {"run": run, "search": search},
    }


def page() -> str:
    """The page of all keys."""
    parts = [INTRODUCTION]
    parts += _tables(Plan, without=NOT_IN_FILES)
    parts += [
        "## Keys under search\n",
        _table(Search, [f.name for f in dataclasses.fields(Search)]),
    ]
    parts.append(f"`space` may name {', '.join(f'`{name}`' for name in SEARCHABLE)}.\n")
    parts.append("## Keys under common, per_task and per_method\n")
    own = {name: key for name, key in RESERVED.items() if key != "output"}
    said = ", ".join(f"`{name}` by `{key}`" for name, key in own.items())
    parts.append(f"They are the flags of `hiddenkey train`. The plan itself gives {said}.\n")
    parts += _tables(TrainOptions, without=RESERVED, level="###")
    return "\n".join(parts)


def texts(kind: type) -> dict[str, str]:
    """The text under each field, its own and its parents', with the field's limit."""
    found = {
        part.arg_name: " ".join((part.description or "").split())
        for each in reversed(kind.__mro__[:-1])
        for part in docstring_parser.parse_from_object(each).params
    }
    for field in dataclasses.fields(kind):
        limit = field.metadata.get("limit")
        if limit is not None and limit.rule not in found[field.name]:
            found[field.name] += f" Must be {limit.rule}."
    return found


def _object(kind: type, without: typing.Collection[str] = ()) -> dict[str, Any]:
    hints, said = typing.get_type_hints(kind), texts(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name not in without]
    properties = {
        field.name: _of_type(hints[field.name])
        | {"description": said[field.name]}
        | ({} if _default(field) in (None, [], {}) else {"default": _default(field)})
        for field in fields
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _of_type(hint: Any) -> dict[str, Any]:
    """A type as JSON schema."""
    if hint in JSON_TYPES:
        return {"type": JSON_TYPES[hint]}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        items = {} if inner[-1] is ... else {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "items": _of_type(inner[0]), **items}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(inner[1])}
    if origin is types.UnionType or origin is typing.Union:
        return {"anyOf": [_of_type(each) for each in inner]}
    return {}


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    return json.loads(json.dumps(value))


def _tables(kind: Any, without: typing.Collection[str], level: str = "##") -> list[str]:
    """A table for each group of the command's help."""
    starts, title = dict(kind.sections), ""
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(kind):
        title = starts.get(field.name, title)
        groups.setdefault(title, []).extend([field.name] if field.name not in without else [])
    return [
        part
        for heading, names in groups.items()
        for part in (f"{level} {heading[:1].upper()}{heading[1:]}\n", _table(kind, names))
        if names
    ]


def _table(kind: type, names: list[str]) -> str:
    hints, said = typing.get_type_hints(kind), texts(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name in names:
        default = _default(fields[name])
        shown = "" if default is None else f"`{json.dumps(default)}`"
        cells = (f"`{name}`", _in_words(hints[name]), shown, said[name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _in_words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is tuple:
        return f"list of {_in_words(inner[0])}"
    if origin is dict and typing.get_origin(inner[1]) is dict:
        return "a table of settings for each name"
    if origin is dict:
        return f"{_in_words(inner[1])} by name"
    if inner:
        return " or ".join(_in_words(each) for each in inner if each is not type(None))
    words = {bool: "true/false", int: "whole number", float: "number", str: "text"}
    return words.get(hint, "settings")


def files() -> dict[Path, str]:
    """What this script writes."""
    return {SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", PAGE: page()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
