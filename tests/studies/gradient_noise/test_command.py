"""The study of gradient noise from its words to its files, on a tiny model."""

import json

import pytest

from study_main import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SMALL = [
    "--max-length", "16", "--masks", "8", "--batches", "2", "--batch-size", "8", "--train-steps",
    "3", "--points", "0", "1", "--rates", "0.4",
]  # fmt: skip


@pytest.fixture
def words(tiny_options, tmp_path):
    return [
        *("gradient_noise", "--model", tiny_options.model, "--task", "file"),
        *("--train-file", tiny_options.train_file, "--eval-file", tiny_options.eval_file),
        *("--text-columns", "text", *SMALL, "--output", str(tmp_path / "noise")),
    ]


def test_from_words_to_record_table_and_pictures(words, tmp_path, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "step 3, column, rate 0.4: outputs differ by" in shown
    assert f"values and pictures: {tmp_path}/noise/gradient-noise.md" in shown
    folder = tmp_path / "noise"
    record = json.loads((folder / "gradient-noise.json").read_text())
    assert record["settings"]["masks"] == 8
    assert record["data"]["train_examples"] == 32
    assert "torch" in record["environment"]
    found = {(m["point"]["step"], m["rate"]): m for m in record["measurements"]}
    assert list(found) == [(0, 0.4), (3, 0.4)]
    start, end = found[0, 0.4], found[3, 0.4]
    assert start["A"]["noise_ratio"]["value"] is None
    assert end["A"]["noise_ratio"]["value"] > 0
    assert end["maps"]["shares"]["dropkey"] == {"absolute": 0.0, "squared": 0.0}
    assert end["maps"]["shares"]["dropattention"]["absolute"] > 0
    assert len(end["matrices"]) == 8
    assert len(end["batches"]) == 2
    value = end["all"]["methods"]["dropkey"]["snr"]["value"]
    table = (folder / "gradient-noise.md").read_text()
    assert f"{value:.3f}".replace("-", "−") in table
    for name in ("gradient_noise_column", "gradient_maps_column"):
        pictures = [p.name for p in folder.iterdir() if p.name.startswith(name)]
        assert sorted(p[-4:] for p in pictures) == [".png", ".svg"]
        assert all(p in table for p in pictures if p.endswith(".svg"))

    assert main(words) == 2
    assert "must not hold an analysis" in capsys.readouterr().err


def test_faults_are_shown_and_nothing_is_written(words, tmp_path, capsys):
    assert main([*words, "--masks", "9", "--rates", "1.5"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 2
    assert "rates must be in (0, 1), got 1.5" in error
    assert not (tmp_path / "noise").exists()
