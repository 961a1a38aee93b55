"""The schema and the page of plans are current, and the schema takes and refuses what it should."""

import dataclasses
import json

import pytest
import yaml

import plan_reference
from hiddenkey.lab.compare.first_plan import SCHEMA
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.recipes import recipes
from hiddenkey.lab.plans.settings import RESERVED
from hiddenkey.lab.run.options import TrainOptions

TYPES = {
    "string": str, "boolean": bool, "integer": int, "number": (int, float), "array": list,
    "object": dict, "null": type(None),
}  # fmt: skip


def is_of(value, kind):
    number = isinstance(value, bool) and kind in ("integer", "number")
    return isinstance(value, TYPES[kind]) and not number


def faults(value, rule, whole, place=""):
    """Every place where a value breaks the part of JSON schema that plans need."""
    if "$ref" in rule:
        rule = whole["definitions"][rule["$ref"].removeprefix("#/definitions/")]
    if any(not faults(value, other, whole) for other in rule.get("anyOf", ())):
        return []
    if "anyOf" in rule or ("enum" in rule and value not in rule["enum"]):
        return [place]
    kinds = rule.get("type", [])
    if kinds and not any(is_of(value, k) for k in ([kinds] if isinstance(kinds, str) else kinds)):
        return [place]
    found = [
        fault for other in rule.get("allOf", ()) for fault in faults(value, other, whole, place)
    ]
    if isinstance(value, list):
        size = rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value))
        found += [] if size else [place]
        for index, each in enumerate(value):
            found += faults(each, rule.get("items", {}), whole, f"{place}[{index}]")
    if isinstance(value, dict):
        for name, each in value.items():
            inner = rule.get("properties", {}).get(name, rule.get("additionalProperties", {}))
            where = f"{place}.{name}"
            found += [where] if inner is False else faults(each, inner, whole, where)
    return found


def plan_faults(plan):
    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return faults(plan, whole, whole)


def test_what_is_written_is_current():
    for path, current in plan_reference.files().items():
        assert path.read_text(encoding="utf-8") == current, f"run: {plan_reference.COMMAND}"


def test_every_setting_is_in_the_schema_and_on_the_page():
    whole, page = plan_reference.schema(), plan_reference.page()
    of_plan = {field.name for field in dataclasses.fields(Plan)} - {"init"}
    of_run = {field.name for field in dataclasses.fields(TrainOptions)} - {*RESERVED}
    assert whole["properties"].keys() == of_plan
    assert whole["definitions"]["run"]["properties"].keys() == of_run
    for name in (*of_plan, *of_run):
        assert f"\n| `{name}` |" in page
    for kind in (whole, whole["definitions"]["run"], whole["definitions"]["search"]):
        assert all(len(own["description"]) > 10 for own in kind["properties"].values())


@pytest.mark.parametrize(
    "name", [n for n, recipe in recipes().items() if "hiddenkey compare" in recipe.command]
)
def test_recipes_of_comparisons_follow_the_schema(name):
    assert plan_faults(yaml.safe_load(recipes()[name].text)) == []


@pytest.mark.parametrize(
    ("plan", "places"),
    [
        ({"epochs": 3}, [".epochs"]),
        ({"seeds": [0, "x", True]}, [".seeds[1]", ".seeds[2]"]),
        ({"common": {"epochs": "many", "rank": 8}}, [".common.epochs", ".common.rank"]),
        ({"common": {"scheduler": "steep"}}, [".common.scheduler"]),
        ({"per_task": {"cola": {"max_length": 1.5}}}, [".per_task.cola.max_length"]),
        ({"per_method": {"hiddenkey": 3}}, [".per_method.hiddenkey"]),
        ({"search": {"trials": 2, "space": {"rate": [0, 1, 2]}}}, [".search"]),
        ({"search": True, "common": {"rates": {"hidden": 0.1}, "layers": None}}, []),
        ({"search": {"space": {"learning_rate": [0.1, 1]}}}, []),
    ],
)
def test_wrong_plans_break_the_schema_where_they_are_wrong(plan, places):
    assert plan_faults(plan) == places
