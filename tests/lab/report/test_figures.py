import dataclasses
import re
from xml.etree import ElementTree

import pytest

from hiddenkey.lab.present.canvas import COLOURS, INK, Palette, inline, render, standalone
from hiddenkey.lab.present.words import MISSING
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.report.figures import list_plots
from lab.report.synthetic import record, study, with_metric

ALL = ("lora", "dropkey", "hiddencut", "hiddenkey")


def by_kind(runs):
    found = {}
    for plot in list_plots(tabulate(runs)):
        found.setdefault(plot.kind, []).append(plot)
    return found


def test_every_kind_of_figure_is_there():
    runs = study(tasks=("cola", "rte"), chosen=ALL, ranks=(4, 8), seeds=range(3))
    found = by_kind(runs)
    assert set(found) == {"seeds", "differences", "rate", "rank", "curves", "cost", "ranks"}
    assert len(found["seeds"]) == len(found["curves"]) == 2
    assert [plot.title for plot in found["rate"]][:2] == [
        "cola: matthews over dropout rate (rank 4)",
        "cola: matthews over dropout rate (rank 8)",
    ]


def test_names_are_safe_and_unique():
    runs = [*study(tasks=("../../etc",)), *study(tasks=("etc",)), *study(tasks=("…",))]
    names = [plot.name for plot in list_plots(tabulate(runs))]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


@pytest.fixture(scope="module")
def drawn():
    runs = study(tasks=("cola",), chosen=ALL, seeds=range(3))
    return [(plot, *render(plot)) for plot in list_plots(tabulate(runs))]


def test_files_are_svg_and_png(drawn):
    for _, svg, png in drawn:
        assert ElementTree.fromstring(standalone(svg)).tag.endswith("svg")
        assert '<rect width="100%" height="100%" fill="#ffffff"/>' in standalone(svg)
        assert png.startswith(b"\x89PNG")


def test_the_same_tables_give_the_same_files(drawn):
    plot, svg, png = drawn[0]
    assert render(plot) == (svg, png)


def test_inline_figures_take_the_pages_colour_and_share_no_ids(drawn):
    ids = []
    for plot, svg, _ in drawn:
        text = inline(svg, plot.name, "label &amp; more")
        root = ElementTree.fromstring(text)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == "label & more"
        assert "width" not in root.attrib
        assert INK not in text
        assert "currentColor" in text
        own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert set(used) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_alternative_text_tells_the_numbers(drawn):
    table = tabulate(study(tasks=("cola",), chosen=ALL, seeds=range(3))).scopes[0].tasks[0]
    plots = {plot.kind: plot for plot, *_ in drawn}
    lora = next(c for c in table.cells if c.configuration.method == "lora")
    assert f"lora: mean {lora.description.mean:.3f}" in plots["seeds"].alt
    for kind in ("differences", "rate", "cost", "curves"):
        assert "hiddenkey" in plots[kind].alt


def test_captions_warn_where_a_choice_is_made(drawn):
    captions = {plot.kind: plot.caption for plot, *_ in drawn}
    for kind in ("rate", "curves"):
        assert "choice made on the evaluation examples" in captions[kind]


def test_labels_are_never_read_as_mathematics():
    run = record(task="$\\frac{1}{0}$", seed=0)
    (plot,) = [p for p in list_plots(tabulate([run, record(task="$x", seed=1)])) if "frac" in p.task
               and p.kind == "curves"]  # fmt: skip
    svg, _ = render(plot)
    assert "<svg" in svg


def test_many_methods_share_out_over_figures():
    methods = (*ALL, "dropkey-span", "dropattention", "hiddencut-element", "cutoff")
    curves = by_kind(study(chosen=methods, seeds=range(2)))["curves"]
    assert [plot.title[-8:] for plot in curves] == ["(1 of 2)", "(2 of 2)"]
    for plot in curves:
        assert "lora" in plot.alt


def test_a_method_has_the_same_style_everywhere():
    palette = Palette(("lora", "dropkey", "hiddenkey"), "lora")
    assert palette.style("lora").colour == INK
    assert palette.style("dropkey").colour == COLOURS[0]
    found = palette.styles([("a", "hiddenkey"), ("b", "hiddenkey"), ("c", "dropkey")])
    assert found["a"].colour == found["b"].colour == COLOURS[1]
    assert found["a"].dash != found["b"].dash
    assert found["a"].marker != found["b"].marker


@pytest.mark.parametrize("count", [1, 2])
def test_few_seeds_are_drawn_without_intervals(count):
    for plot in list_plots(tabulate(study(seeds=range(count)))):
        render(plot)


def test_missing_values_are_drawn_around():
    runs = study(rates=(0.1, 0.2), seeds=range(3))
    runs = [
        with_metric(run, last=None, best=None) if run.options["rate"] == 0.2 else run
        for run in runs
    ]
    runs = [*runs, dataclasses.replace(runs[0], id="0" * 16, metrics=())]
    found = list_plots(tabulate(runs))
    for plot in found:
        render(plot)
    assert f"0.2: {MISSING}" in next(plot.alt for plot in found if plot.kind == "rate")


def test_drawing_leaves_matplotlibs_state_alone(drawn):
    import sys

    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
