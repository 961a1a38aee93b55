"""Gradient noise over several training runs: what is averaged, and a study that goes on."""

import json

import pytest
import torch
from scipy import stats

from gradient_noise.attention_maps import MapStatistics
from gradient_noise.measurement import Point, Setting
from gradient_noise.moments import Moments
from gradient_noise_runs.values import PointValues, over_seeds, values_of
from study_main import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def moments(signal, noise):
    column = [torch.full((9,), float(value)) for value in (signal, noise, 0.0, 1.0)]
    return Moments(*column)


def test_values_are_sums_over_matrices_and_batches_and_may_be_negative():
    pairs = {
        "dropkey": [((1, 2), (3, 4)), ((0, 6), (0, 8))],
        "dropattention": [((1, 10), (1, 20))] * 2,
        "extra": [((-3, 1), (1, 1)), ((0, 1), (-2, 1))],
    }
    parts = {
        name: [{"A": moments(*a), "B": moments(*b)} for a, b in batches]
        for name, batches in pairs.items()
    }
    point = Point(0.5, 10, 0.7, {"A": 1.0, "B": 4.0})
    found = values_of(Setting(point, "column", 0.1, parts, MapStatistics().findings(), 0.0, 1.0))
    assert (found.step, found.share, found.loss) == (10, 0.5, 0.7)
    assert found.dropkey_noise == 2 + 4 + 6 + 8
    assert found.dropattention_noise == 60
    assert found.bias_over_noise == (-3 + 1 + 0 - 2) / 20
    assert found.mask_over_batch == 20 / (2 * 5)
    assert found.on_dropped is None


def test_seeds_are_averaged_by_the_rule_of_inference():
    ratios, biases = [2.0, 4.0, 8.0], [0.1, 0.3, 0.2]
    runs = [
        PointValues(10, 0.5, 0.7, 3.0, 3.0 * ratio, bias, 0.25, None)
        for ratio, bias in zip(ratios, biases, strict=True)
    ]
    found = over_seeds(runs)
    assert found.noise_ratio.value == pytest.approx(4.0)
    reach = 2 ** (stats.t.isf(0.025, 2) / 3**0.5)  # the logarithms are one apart, in base 2
    assert found.noise_ratio.interval() == pytest.approx((4 / reach, 4 * reach))
    assert not found.noise_ratio.differs
    assert found.bias_over_noise.mean == pytest.approx(0.2)
    assert found.bias_over_noise.high == pytest.approx(0.2 + stats.t.isf(0.025, 2) * 0.1 / 3**0.5)
    assert found.on_dropped.mean == 0.25
    assert found.mask_over_batch is None


@pytest.fixture
def words(tiny_model, tmp_path):
    return [
        *("gradient_noise_runs", "--models", str(tiny_model), "--tasks", "headlines"),
        *(
            "--seeds",
            "3",
            "--train-size",
            "16",
            "--max-length",
            "16",
            "--masks",
            "8",
            "--batches",
            "1",
        ),
        *("--batch-size", "8", "--train-steps", "2", "--points", "0.5", "1", "--rate", "0.4"),
        *("--output", str(tmp_path / "noise")),
    ]


def test_from_words_to_runs_and_table(words, tmp_path, capsys, monkeypatch):
    assert main([*words, "--dry-run"]) == 0
    assert "3 runs, 0 stored; the others take about" in capsys.readouterr().out
    assert not (tmp_path / "noise").exists()
    assert main(words) == 0
    runs = [json.loads(path.read_text()) for path in (tmp_path / "noise" / "runs").iterdir()]
    assert sorted(run["settings"]["seed"] for run in runs) == [0, 1, 2]
    points = [run["values"]["points"] for run in runs]
    assert [[point["step"] for point in run] for run in points] == [[1, 2]] * 3
    assert len({run[1]["dropkey_noise"] for run in points}) == 3
    ratio = torch.tensor(
        [run[1]["dropattention_noise"] / run[1]["dropkey_noise"] for run in points]
    )
    page = (tmp_path / "noise" / "gradient_noise_runs.md").read_text()
    assert f"{ratio.double().log().mean().exp().item():.3f}" in page

    monkeypatch.setattr("gradient_noise.measurement.analyse", lambda *_: pytest.fail("again"))
    assert main(words) == 0
    assert "3 runs, all of them stored" in capsys.readouterr().out


def test_faults_of_every_task_are_told_before_anything_is_trained(words, capsys):
    assert main([*words, "--tasks", "headlines", "sst2", "--masks", "9", "--seeds", "2"]) == 2
    said = capsys.readouterr().err
    assert "masks must be a multiple of 8, got 9" in said
    assert "task 'sst2' needs the folder of its files" in said
    assert "seeds must be at least 3, got 2" in said
