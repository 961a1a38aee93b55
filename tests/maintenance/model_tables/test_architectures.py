"""The command that examines every architecture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_tables.main import main


def test_all_examines_types_and_writes_what_it_found(capsys, tmp_path):
    words = ["architectures", "--types", "llama", "mamba", "--output", str(tmp_path)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert any("llama (causal, " in line and line.endswith("s) pass") for line in lines)
    assert any("mamba (causal, " in line and "refused: MambaForCausalLM" in line for line in lines)
    assert lines[-1].endswith("1 of 2 text types that can be built pass")
    record = json.loads((tmp_path / "models.json").read_text())
    assert [row["verdict"] for row in record["rows"]] == ["pass", "refused"]
    page = (tmp_path / "MODELS.md").read_text()
    assert "<!-- architectures -->" in page
    assert "| `llama` | causal | LlamaForCausalLM | fused, 2 of 2 |" in page


def test_all_as_json_with_a_type_that_does_not_pass(capsys):
    words = ["architectures", "--types", "llama", "--limit", "0.01", "--jobs", "1", "--json"]
    assert main(words) == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["type"], row["verdict"]) == ("llama", "timed out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--types", "lama"], "did you mean 'llama'?"),
        (["--tasks", "casual"], "tasks must be one of causal, seq2seq, classification, image"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--limit", "-1"], "limit must be more than 0 seconds, got -1"),
        (["--rate", "0.1"], "--rate is not a setting"),
    ],
)
def test_refusals_of_all(words, message, capsys):
    assert main(["architectures", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_the_folder_runs_as_a_script():
    """Its modules' names must not hide those of Python's own."""
    folder = Path(__file__).parents[3] / "maintenance" / "model_tables"
    done = subprocess.run([sys.executable, folder, "maps"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "architectures  what a method does on every architecture" in done.stderr
