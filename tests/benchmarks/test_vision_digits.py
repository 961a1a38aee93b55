"""benchmarks/vision_digits.py: equal effort, equal starts, and test images that nobody saw."""

import pytest
import torch

import vision_digits as digits
from vision_digits import METHODS, NOISE, OWN, PLAIN, Images, Setting


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
    parts = digits.load_digits(200)
    assert [len(part.classes) for part in parts] == [200, 800, 797]
    keys = [{tuple(image.flatten().tolist()) for image in part.pixels} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 1797
    assert torch.bincount(parts[0].classes).tolist() == [20] * 10
    assert parts[0].pixels.min() == -1
    assert parts[0].pixels.max() == 1


@pytest.mark.parametrize("method", METHODS)
def test_methods_start_from_the_same_weights(method):
    model = digits.build(Setting(method, 1e-3, 0.1), 4)
    assert torch.equal(weights(model), weights(digits.build(Setting(PLAIN, 1e-3), 4)))
    own = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert own == ({0.1} if method == OWN else {0.0})


@pytest.mark.parametrize("method", [OWN, *NOISE])
def test_noise_changes_what_is_learnt(method):
    """A run without its noise would be the plain one."""
    images = random_images(20)
    losses = {
        setting: digits.fit(setting, 0, images, images, steps=3, batch_size=10)["loss"]
        for setting in (Setting(method, 1e-3, 0.3), Setting(PLAIN, 1e-3))
    }
    again = digits.fit(Setting(method, 1e-3, 0.3), 0, images, images, steps=3, batch_size=10)
    noisy, plain = losses.values()
    assert noisy != plain
    assert again["loss"] == noisy


def test_every_image_comes_once_before_any_comes_again():
    found = list(digits.batches(10, 4, 5, seed=0))
    assert sorted(torch.cat(found).tolist()) == sorted([*range(10), *range(10)])
    other = torch.cat(list(digits.batches(10, 4, 5, seed=1)))
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
