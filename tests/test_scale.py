"""``docs/SCALE.md`` shows what its commands print, and accelerate reads the recipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hiddenkey.cli.main import main

ROOT = Path(__file__).parents[1]
SCALE = (ROOT / "docs" / "SCALE.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes" / "distributed").glob("*.yaml"))
ESTIMATES = re.findall(r"```console\n\$ hiddenkey (estimate .*)\n((?:.*\n)*?)```", SCALE)


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize(("words", "printed"), ESTIMATES, ids=[words for words, _ in ESTIMATES])
def test_the_estimates_are_what_the_commands_print(words, printed, capsys):
    assert main(words.split()) == 0
    assert stripped(capsys.readouterr().out.rstrip()) == stripped(printed)


def test_both_models_are_estimated_on_one_device_on_a_machine_and_on_two():
    assert len(ESTIMATES) == 6
    for sharding in ("fsdp2", "zero3"):
        own = [words for words, _ in ESTIMATES if f"--sharding {sharding}" in words]
        assert len(own) == 2
        assert all("--devices 8 16" in words and "--tokens 512 2048" in words for words in own)


def test_every_recipe_is_named():
    for recipe in RECIPES:
        assert f"--config_file recipes/distributed/{recipe.name}" in SCALE


def test_files_that_are_named_exist():
    named = re.findall(r"`((?:hiddenkey|tests|recipes)/[\w/.]+)`", SCALE)
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "src" / name).exists(), name


@pytest.mark.parametrize("recipe", RECIPES, ids=[path.stem for path in RECIPES])
def test_accelerate_reads_the_recipe(recipe):
    from accelerate.commands.config.config_args import load_config_from_file

    text = recipe.read_text(encoding="utf-8")
    assert f"#   accelerate launch --config_file recipes/distributed/{recipe.name} " in text
    read = load_config_from_file(str(recipe))  # refuses keys that it does not know
    assert read.num_processes == 8
    settings = read.deepspeed_config if recipe.stem == "zero3" else {}
    if settings:
        zero3 = json.loads((ROOT / settings["deepspeed_config_file"]).read_text())
        assert zero3["zero_optimization"]["stage"] == 3


SCRIPT = """
import os
from accelerate import Accelerator
told = f"{Accelerator().num_processes} {Accelerator().distributed_type}\\n"
os.write(1, told.encode())  # in one piece: both processes write to the same pipe
"""


def test_the_command_for_a_laptop_starts_two_processes(tmp_path):
    assert "`ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 script.py`" in SCALE
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 DistributedType.MULTI_CPU") == 2
