import dataclasses
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.plan import Contrast, Drawing
from hiddenkey.lab.claims.wording import AXES
from hiddenkey.lab.present.canvas import render, standalone
from lab.claims.synthetic import RANKS, claims, evidence, measure


def draw(plot):
    """The figure before it becomes a file."""
    figure = Figure()
    plot.draw(figure)
    return figure


def plot_of(found, claim, number=0):
    return [plot for plot in list_plots(found) if plot.kind == claim][number]


def lines_of(axes):
    """Points of the lines of a panel, by label."""
    return {
        line.get_label(): list(zip(*line.get_data(), strict=True))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


@pytest.fixture(scope="module")
def found():
    return evidence()


def test_names_say_scale_claim_and_place_in_the_plan(found):
    assert [plot.name for plot in list_plots(found)] == [
        "claims_small_c1_1", "claims_small_c1_2", "claims_small_c2_1", "claims_small_c4_1",
        "claims_small_c5_1", "claims_small_c9_1",
    ]  # fmt: skip


def test_sweep_shows_the_mean_over_tasks_and_each_task(found):
    figure = draw(plot_of(found, "C1"))
    whole, first, second = figure.axes
    assert [axes.get_title(loc="center") or axes.get_title(loc="left") for axes in figure.axes] == [
        "mean over 2 tasks", "headlines", "sst2",
    ]  # fmt: skip
    values = measure()
    for axes, tasks in (
        (whole, ("headlines", "sst2")),
        (first, ("headlines",)),
        (second, ("sst2",)),
    ):
        points = dict(lines_of(axes)["LoRA"])
        assert set(points) == set(RANKS)
        for rank, mean in points.items():
            runs = [v for task in tasks for v in values[task, f"rank{rank}", "metric"].values()]
            assert mean == pytest.approx(sum(runs) / len(runs))
        assert axes.get_xscale() == "log"
    assert whole.get_xlabel() == "rank"
    assert whole.get_ylabel() == "main metric, points"


def test_plain_lora_is_a_level_and_the_origin_of_each_line(found):
    whole = draw(plot_of(found, "C4")).axes[0]
    lines = lines_of(whole)
    assert list(lines) == ["lora", "dropkey", "hiddencut", "dropattention"]
    (left, mean), (right, other) = lines["lora"]
    assert (left, right) == (0, 1), "over the whole width"
    assert mean == other
    for name in ("dropkey", "hiddencut", "dropattention"):
        assert lines[name][0] == (0, pytest.approx(mean))
        assert len(lines[name]) == 5


def test_sweep_waits_for_missing_points(found):
    values = {key: runs for key, runs in measure().items() if key[1] != "rank16"}
    lines = lines_of(draw(plot_of(evidence(values=values), "C1")).axes[0])
    assert [x for x, _ in lines["LoRA"]] == [1, 4, 64]


def test_numbers_at_the_axis_do_not_collide():
    picture = Drawing("sweep", "t", x="rate", series={
        "a": {x: f"rank{rank}" for x, rank in zip((0.0, 0.01, 0.3, 0.5), RANKS, strict=True)}
    })  # fmt: skip
    claim = dataclasses.replace(claims()[0], pictures=(picture,))
    axes = draw(plot_of(evidence(chosen=(claim,)), "C1")).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "", "0.3", "0.5"]


def test_effects_have_their_intervals_verdicts_and_margins(found):
    (axes,) = draw(plot_of(found, "C2")).axes
    finding = found.findings[1]
    points = [tuple(float(v[0]) for v in line.get_data()) for line in axes.get_lines()]
    assert [x for x, _ in points] == [pytest.approx(e.mean) for e in finding.by_task]
    assert [y for _, y in points] == sorted(y for _, y in points)
    hollow = [line.get_markerfacecolor() == "none" for line in axes.get_lines()]
    assert hollow == [effect.task == "cola" for effect in finding.by_task]
    shaded = [c.get_datalim(axes.transData) for c in axes.collections if "Poly" in str(type(c))]
    assert {(box.x0, box.x1) for box in shaded} == {(-1.0, 1.0)}
    assert axes.yaxis_inverted()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["headlines", "sst2", "cola"] * 3


def test_pooled_effects_are_thicker_than_those_of_tasks(found):
    (axes,) = draw(plot_of(found, "C5")).axes
    sizes = [line.get_markersize() for line in axes.get_lines()]
    assert sizes[0] > sizes[1] == sizes[2] == sizes[3]
    assert axes.get_yticklabels()[0].get_text() == "mean"


def test_expected_range_of_times_is_shaded_and_kept_in_sight(found):
    open_ended = Contrast("cheap", {"hiddenkey": 1}, "step time", "between", 0.0, 0.0, 1.05)
    claim = claims()[-1]
    claim = dataclasses.replace(claim, contrasts=(*claim.contrasts, open_ended))
    (axes,) = draw(plot_of(evidence(chosen=(claim,)), "C9")).axes
    shaded = [c.get_datalim(axes.transData) for c in axes.collections if "Poly" in str(type(c))]
    ends = [(box.x0, box.x1) for box in shaded]
    assert ends[:2] == [(1.3, 1.7), (pytest.approx(0.9), pytest.approx(1.1))]
    assert 0.5 < ends[2][0] < 1 < ends[2][1] == 1.05, "not down to a time of nothing"


def test_captions_and_alternative_text_tell_what_is_seen(found):
    plots = {plot.name: plot for plot in list_plots(found)}
    assert "Hollow: a task that does not count." in plots["claims_small_c2_1"].caption
    assert "Thick: mean" not in plots["claims_small_c2_1"].caption
    assert "Thick: mean" in plots["claims_small_c5_1"].caption
    assert "the range that the claim expects" in plots["claims_small_c9_1"].caption
    question = found.findings[4].questions[0]
    number = f"{question.mean:+.2f} points".replace("-", "−")
    assert f"{question.contrast.name}: {number}" in plots["claims_small_c5_1"].alt
    assert "LoRA at 1: " in plots["claims_small_c1_1"].alt
    assert "lora everywhere 8" in plots["claims_small_c4_1"].alt


def test_pictures_without_values_are_left_out():
    assert list_plots(evidence(values={})) == []
    only = {key: runs for key, runs in measure().items() if key[2] != "step time"}
    assert "C9" not in {plot.kind for plot in list_plots(evidence(values=only))}


@pytest.mark.parametrize("claim", ["C1", "C5"])
def test_files_are_whole_and_equal_each_time(found, claim):
    plot = plot_of(found, claim)
    svg, png = render(plot)
    assert ElementTree.fromstring(standalone(svg)).tag.endswith("svg")
    assert png.startswith(b"\x89PNG")
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", svg)
    assert render(plot) == (svg, png)


def test_one_seed_is_drawn_without_intervals():
    found = evidence(seeds=range(1), values=measure(range(1), repeats=1))
    for plot in list_plots(found):
        assert draw(plot).axes


def test_measures_have_their_names_in_words_at_an_axis():
    assert AXES["ece"] == "ECE"
    assert AXES["brier"] == "Brier score"
    assert AXES["brier_after_temperature"] == "Brier score after temperature"
    assert AXES["loss_after_temperature"] == "loss after temperature"
