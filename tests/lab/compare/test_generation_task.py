"""A comparison of what language models write."""

import dataclasses
import json

import pytest

from hiddenkey.lab import scores
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.scores.java import MissingToolError
from lab.compare.driver import run_here

METRICS = ("BLEU", "NIST", "exact_match", "token_f1", "loss")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_texts_are_compared_by_every_metric(plan, tiny_language_model, tmp_path, monkeypatch):
    def find():
        raise MissingToolError("no Java here")

    monkeypatch.setattr(scores, "find_tools", find)
    rows = [{"prompt": f"w{i} is", "completion": f"cat w{i} w{i + 1} bee"} for i in range(12)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train_file": str(file), "eval_file": str(file), "text_columns": []}
    settings = {"beams": 1, "max_new_tokens": 6, "max_steps": 2, "eval_size": 4}
    changed = dataclasses.replace(
        plan,
        tasks=("completion",),
        models=(str(tiny_language_model),),
        common={**plan.common, **files, **settings},
    )
    said = "completion: METEOR, ROUGE_L, CIDEr: skipped, no Java here"
    assert said in check(changed).described(), "before the first run"
    run_here(changed)
    records = read_records(tmp_path / "compare")
    assert [record.status for record in records] == ["finished"] * 4
    scope = tabulate(records).scopes[0]
    (table,) = scope.tasks
    found = {
        (cell.configuration.method, cell.measure.name): cell.description.count
        for cell in table.cells
        if cell.description is not None and cell.measure.checkpoint == "last"
    }
    assert found == {(method, name): 2 for method in ("lora", "hiddenkey") for name in METRICS}
