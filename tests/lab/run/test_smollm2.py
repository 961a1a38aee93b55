"""The bundled language model, from its GGUF file to scored texts."""

import json
from pathlib import Path

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab import gguf_files
from hiddenkey.lab.assets import SMOLLM2, locate
from hiddenkey.lab.run.models import model_source
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.training import train


@pytest.fixture
def smollm2():
    pytest.importorskip("gguf")
    try:
        return locate(SMOLLM2)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning")
def test_smollm2_trains_on_e2e_and_writes_sentences(smollm2, glue, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # starting Java takes longer than everything else here
    monkeypatch.delenv("JAVA_HOME", raising=False)
    result = train(
        TrainOptions(
            model="smollm2",
            task="e2e",
            data=str(glue),
            train_size=8,
            eval_size=2,
            max_length=96,
            max_steps=1,
            batch_size=4,
            evaluations=1,
            beams=1,
            max_new_tokens=12,
            output=str(tmp_path / "run"),
        )
    )
    assert result.total_parameters == 134_515_008 + result.lora_parameters
    assert result.eval_loss.last < 4  # random weights: the logarithm of 49,152, 10.8
    assert 0 <= result.metrics["BLEU"].last <= 1
    lines = (tmp_path / "run" / "generations.jsonl").read_text().splitlines()
    assert all(json.loads(line)["output"] for line in lines)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["consistency_loss"] > 0


def test_a_gguf_file_may_stand_anywhere(tmp_path):
    pytest.importorskip("gguf")
    assert model_source(str(tmp_path / "a.gguf")) == (str(tmp_path), {"gguf_file": "a.gguf"})
    assert model_source("gpt2") == ("gpt2", {})


def test_the_package_that_reads_gguf_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"package 'gguf' is missing; run: pip install .*\[gguf\]"
    ):
        model_source(str(Path(tmp_path) / "a.gguf"))
