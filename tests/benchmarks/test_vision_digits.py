"""benchmarks/vision_digits.py: equal effort, equal starts, and test images that nobody saw."""

import argparse
import sys

import pytest
import torch

import hiddenkey
import vision_data
import vision_digits as digits
from vision_data import Images
from vision_digits import ARCHITECTURES, METHODS, NOISE, OWN, PLAIN, Setting


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    return Images(
        torch.rand(count, 1, 8, 8, generator=generator),
        torch.arange(count) % 10,
    )


def row(method, accuracy, loss=0.5, learning_rate=1e-3, rate=0.1):
    return {"method": method, "learning_rate": learning_rate, "rate": rate, "accuracy": accuracy,
            "loss": loss, "train_loss": 0.1}  # fmt: skip


def test_every_method_may_choose_from_as_many_settings():
    assert {len(digits.grid(method)) for method in METHODS} == {6}
    assert all(len(set(digits.grid(method))) == 6 for method in METHODS)


def test_images_are_split_without_overlap_and_with_all_classes():
    pytest.importorskip("sklearn")
    parts = vision_data.load_digits(200)
    assert [len(part.classes) for part in parts] == [200, 800, 797]
    keys = [{tuple(image.flatten().tolist()) for image in part.pixels} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 1797
    assert torch.bincount(parts[0].classes).tolist() == [20] * 10
    assert parts[0].pixels.min() == -1
    assert parts[0].pixels.max() == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_start_from_the_same_weights(method, architecture):
    model = digits.build(Setting(method, 1e-3, 0.1), 4, architecture)
    plain = digits.build(Setting(PLAIN, 1e-3), 4, architecture)
    assert torch.equal(weights(model), weights(plain))
    own = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert own == ({0.1} if method == OWN else {0.0})


@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        *((m, "vit") for m in (OWN, *NOISE)),
        (OWN, "swin"),
        ("HiddenKey⁻", "swin"),
        ("HiddenKey", "swin"),
    ],
)
def test_noise_changes_what_is_learnt(method, architecture):
    """A run without its noise would be the plain one."""
    images = random_images(20)
    how = {"steps": 3, "batch_size": 10, "architecture": architecture}
    losses = {
        setting: digits.fit(setting, 0, images, images, **how)["loss"]
        for setting in (Setting(method, 1e-3, 0.3), Setting(PLAIN, 1e-3))
    }
    again = digits.fit(Setting(method, 1e-3, 0.3), 0, images, images, **how)
    noisy, plain = losses.values()
    assert noisy != plain
    assert again["loss"] == noisy


def test_every_image_comes_once_before_any_comes_again():
    found = list(vision_data.batches(10, 4, 5, seed=0))
    assert sorted(torch.cat(found).tolist()) == sorted([*range(10), *range(10)])
    other = torch.cat(list(vision_data.batches(10, 4, 5, seed=1)))
    assert not torch.equal(torch.cat(found), other)


def test_the_best_mean_is_chosen_and_then_the_lowest_loss():
    rows = [
        row(PLAIN, 0.875), row(PLAIN, 0.625), row(PLAIN, 0.8125, learning_rate=2e-3),
        row(PLAIN, 0.6875, learning_rate=2e-3), row(PLAIN, 0.75, 0.4, learning_rate=3e-3),
        row(PLAIN, 0.75, 0.4, learning_rate=3e-3), row(OWN, 0.125),
    ]  # fmt: skip
    assert digits.choose(rows) == {
        PLAIN: Setting(PLAIN, 3e-3, 0.1), OWN: Setting(OWN, 1e-3, 0.1)
    }  # fmt: skip


def test_the_report_pairs_equal_seeds_and_knows_which_way_is_better():
    lift = {PLAIN: 0.0, "HiddenKey": 0.05}
    rows = [
        row(method, 0.8 + 0.01 * seed + lift.get(method, 0.01), 0.5 - lift.get(method, 0.01))
        for seed in range(8)
        for method in METHODS
    ]
    found = digits.compared(rows, "accuracy", PLAIN)["HiddenKey"]
    assert found.difference == pytest.approx(0.05)
    assert (found.wins, found.verdict) == (8, "better")
    assert digits.compared(rows, "loss", PLAIN)["HiddenKey"].verdict == "better"
    chosen = {method: Setting(method, 1e-3, 0.1) for method in METHODS}
    text = digits.report(chosen, rows)
    assert "| HiddenKey | 0.001 | 0.1 | 0.8850 ± 0.0245 |" in text
    assert "| minus no dropout |" in text
    assert "| HiddenKey | +0.0500 (+0.0" in text
    assert ", 0.039, better |" in text


def test_every_layer_of_a_swin_drops_keys_and_hidden_states():
    model = digits.build(Setting("HiddenKey⁻", 1e-3, 0.1), 0, "swin")
    with hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus")) as attachment:
        found = sorted((site.layer, site.position) for site in attachment.sites)
    assert found == [(n, p) for n in range(4) for p in ("attention_logits", "hidden")]
    assert model.config.num_layers == 2


def test_runs_are_kept_and_only_missing_ones_are_trained(tmp_path, monkeypatch):
    trained = []

    def fit(setting, seed, train, evaluation, steps, batch_size, architecture):
        trained.append((setting, seed, architecture))
        return {"accuracy": 0.5, "loss": 0.7, "train_loss": 0.1}

    monkeypatch.setattr(digits, "fit", fit)
    arguments = argparse.Namespace(output=tmp_path / "found.json", train=8, steps=2, batch_size=4)
    images = random_images(8)
    for architecture in ("vit", "vit", "swin"):
        runs = digits.Runs(arguments)
        runs.run(architecture, "test", Setting(PLAIN, 1e-3), 0, (images, images))
    assert [architecture for _, _, architecture in trained] == ["vit", "swin"]
    assert len(digits.Runs(arguments).rows) == 2
    arguments.steps = 3
    with pytest.raises(SystemExit, match="is of other runs"):
        digits.Runs(arguments)


def test_the_command_compares_the_named_methods_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "load_digits", lambda train: (random_images(20),) * 3)
    words = ["vision_digits.py", "--methods", "hiddenkey-minus", "--choice-seeds", "1", "--seeds",
             "3", "--steps", "1", "--architectures", "swin"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    digits.main()
    shown = capsys.readouterr().out
    assert "### swin" in shown
    assert "| no dropout |" in shown
    assert "| HiddenKey⁻ |" in shown
    assert "| HiddenKey |" not in shown
    assert "minus own dropout" not in shown
