"""Whether runs overfit: rises that are there are found, and noise is not taken for one."""

import dataclasses

import numpy as np
import pytest

from hiddenkey.lab.evidence.overfitting import find_overfitting
from lab.report.synthetic import record

BOWL = np.array([0.9, 0.6, 0.5, 0.55, 0.7])


def runs(curves):
    base = record()
    return [
        dataclasses.replace(
            base,
            id=str(number),
            metrics=tuple(
                {"step": 10 * step, "eval_loss": float(value)}
                for step, value in enumerate(curve, start=1)
            ),
        )
        for number, curve in enumerate(curves)
    ]


def test_the_rise_is_from_the_lowest_step_of_the_others_to_the_last():
    last = np.array([0, 0, 0, 0, 0.03])
    found = find_overfitting(runs([BOWL, BOWL + last, BOWL - last]))
    assert (found.step, found.steps) == (30, 50)
    assert found.rise.mean == pytest.approx(0.2)
    assert found.shown
    # Student's t of 2 degrees of freedom at 97.5 % is 4.303
    assert found.rise.low == pytest.approx(0.2 - 4.3027 * 0.03 / 3**0.5, abs=1e-4)


def test_a_loss_that_falls_to_the_end_is_no_overfitting():
    found = find_overfitting(runs([[0.9, 0.6, 0.5], [0.8, 0.6, 0.4], [0.9, 0.7, 0.5]]))
    assert (found.step, found.steps, found.rise.mean) == (30, 30, 0.0)
    assert not found.shown


def test_noise_about_a_flat_loss_is_taken_for_a_rise_in_at_most_one_of_twenty():
    generator = np.random.default_rng(0)
    shown, naive = 0, 0
    for _ in range(400):
        curves = generator.normal(0.5, 0.02, (4, 8))
        shown += find_overfitting(runs(curves)).shown
        rises = curves[:, -1] - curves.min(axis=1)
        naive += rises.mean() > 3.182 * rises.std(ddof=1) / 2
    assert shown <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
    assert naive > 100, "each run's own minimum would make many of them rise"


def test_too_little_is_not_judged():
    assert find_overfitting(runs([BOWL, BOWL])) is None
    assert find_overfitting(runs([[0.5], [0.6], [0.7]])) is None
    assert find_overfitting([]) is None
    missing = [*runs([BOWL, BOWL, BOWL * 2, BOWL * 3])]
    missing[0] = dataclasses.replace(missing[0], metrics=missing[0].metrics[:2])
    assert find_overfitting(missing).rise.count == 3
