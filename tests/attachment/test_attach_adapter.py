"""An adapter trained with an attachment is a plain PEFT adapter."""

import subprocess
import sys
from pathlib import Path

import torch

import hiddenkey
from models import FAMILY_TASKS, batch, lora_model, plain_model, seeded

LOAD = """
import json, sys, warnings
sys.modules["hiddenkey"] = None
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
import torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
torch.set_num_threads(1)
for folder in map(Path, sys.argv[1:]):
    causal = folder.name.endswith("causal")
    auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder / "base", attn_implementation="sdpa")
    model = PeftModel.from_pretrained(model, folder / "adapter").eval()
    inputs = torch.load(folder / "inputs.pt")
    with torch.no_grad():
        torch.save(model(**inputs).logits, folder / "logits.pt")
try:
    import hiddenkey
except ImportError:
    print("done without hiddenkey")
"""


def train_a_little(model, inputs: dict, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(steps):
        with seeded(seed):
            model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_adapters_load_and_agree_where_the_library_cannot_be_imported(tmp_path: Path):
    """Every family and task, in one fresh process; the adapter is saved while attached."""
    expected = {}
    for family, task in FAMILY_TASKS:
        folder = tmp_path / f"{family}-{task}"
        plain_model(family, task).save_pretrained(folder / "base")
        model = lora_model(family, task, feed_forward=True)
        inputs = batch(task, "right")
        with torch.no_grad():
            untrained = model.eval()(**inputs).logits
        model.train()
        hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.2))
        train_a_little(model, inputs)
        model.save_pretrained(folder / "adapter")
        assert not any("hiddenkey" in file.name for file in (folder / "adapter").iterdir())
        assert "hiddenkey" not in (folder / "adapter" / "adapter_config.json").read_text()
        del inputs["labels"]
        torch.save(inputs, folder / "inputs.pt")
        with torch.no_grad():
            expected[folder] = model.eval()(**inputs).logits
        assert not torch.allclose(expected[folder], untrained, atol=1e-2)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, expected)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done without hiddenkey"
    for folder, logits in expected.items():
        torch.testing.assert_close(torch.load(folder / "logits.pt"), logits, msg=folder.name)


def test_an_adapter_can_be_merged_after_detach():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    inputs = batch()
    train_a_little(model, inputs)
    attachment.detach()
    expected = model.eval()(**inputs).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
