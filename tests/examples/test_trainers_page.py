"""What docs/TRAINERS.md says can be run and found."""

import re
import runpy
from pathlib import Path

import pytest
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import hiddenkey
from hiddenkey.integrations.trainer import watch
from integrations.trainers import tiny_trainer
from models import batch, lora_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/TRAINERS.md").read_text(encoding="utf-8")


def test_the_snippets_run(tmp_path):
    model, inputs = lora_model("bert"), batch()
    names = {
        "hiddenkey": hiddenkey, "watch": watch, "model": model, "labels": inputs.pop("labels"),
        "inputs": inputs, "my_loss": cross_entropy, "trainer": tiny_trainer(model, tmp_path),
        "attachment": hiddenkey.attach(model, "hiddenkey"), "step": 2, "steps": 10,
        "batches": range(4), "optimizer": SGD(model.parameters()), "evaluate": lambda model: None,
    }  # fmt: skip
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) == 6
    for snippet in snippets:
        exec(snippet, names)
    assert names["average"].count == 2
    attachment = names["attachment"]
    assert names["loss"].item() == pytest.approx(sum(attachment.losses.values()))
    assert attachment.rates["hidden/0"] == pytest.approx(attachment.rates["hidden/1"] / 2)


def test_the_scripts_and_tests_that_are_named_exist():
    section = PAGE.partition("## Scripts\n")[2].partition("\n## ")[0]
    scripts = re.findall(r"\| `(\w+\.py)` \|", section)
    own = {path.name for path in (ROOT / "examples").glob("*.py")} - {"tiny.py"}
    assert set(scripts) == own
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert tests
    assert all((ROOT / each).exists() for each in tests)


def test_a_module_of_ones_own_has_no_consistency_loss(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    model = runpy.run_path(str(ROOT / "examples/own_module.py"))["Model"]()
    with pytest.raises(hiddenkey.ConfigError, match="the consistency loss works on"):
        hiddenkey.attach(model, "hiddenkey")
