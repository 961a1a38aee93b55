"""Metrics of which less is better: what is the best, what leads, and what a figure says."""

import dataclasses

import pytest

from hiddenkey.lab.evidence.configurations import find_runs, newest
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.report.comparison_grids import methods_grid
from hiddenkey.lab.report.figures import list_plots
from hiddenkey.lab.report.history import tabulate_search
from hiddenkey.lab.results.table import read_results
from lab.report.synthetic import record, with_values

ERRORS = {"plain": 20.0, "middle": 19.0, "ours": 17.0}


@pytest.fixture(params=["perplexity", "mistakes"])
def tables(request, tmp_path):
    """Two tasks, three configurations, six seeds; a name that says so, and one that does not."""
    lines = ["task,configuration,seed,metric,value,step,seconds"]
    for task in ("news", "films"):
        for name, level in ERRORS.items():
            for seed in range(6):
                value = level + 0.1 * seed + 0.05 * (seed % 2)
                lines.append(f"{task},{name},{seed},{request.param},{value},10,9")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return tabulate(read_results(path, lower=request.param == "mistakes" or None), "plain")


def test_the_smallest_mean_is_marked_and_has_the_first_rank(tables):
    grid = methods_grid(tables.scopes[0], "last", "plain")
    strong = [[entry.text for entry in row if entry.strong] for row in grid.rows]
    assert [bool(texts) for texts in strong] == [False, False, True]
    assert all("17." in text for text in strong[2])
    assert tables.scopes[0].ranking.ranks == {"ours": 1.0, "middle": 2.0, "plain": 3.0}


def test_figures_say_where_better_is(tables):
    captions = {plot.kind: plot.caption for plot in list_plots(tables)}
    assert "Left of the zero line is better." in captions["differences"]
    assert "Down is better" in captions["cost"]


def errors(values, **options):
    """Runs of the seeds from 0 whose metric the runs declare to be better when smaller."""
    runs = [record(seed=seed, **options) for seed in range(len(values))]
    return [
        dataclasses.replace(run, options={**run.options, "lower_is_better": True})
        for run in with_values(runs, values)
    ]


def test_a_method_is_shown_at_the_rate_with_the_smallest_mean():
    runs = errors([3.0, 3.1, 3.2], method="lora")
    for rate, level in ((0.05, 2.0), (0.1, 2.5)):
        runs += errors([level, level + 0.1, level + 0.2], method="hiddenkey", rate=rate)
    (table,) = tabulate(runs).scopes[0].tasks
    found = {each.cell.configuration.method: each for each in table.selections}
    assert found["hiddenkey"].cell.configuration.rate == 0.05
    assert found["hiddenkey"].tried == 2


def test_the_trial_with_the_fewest_errors_leads_its_search():
    search = {"method": "hiddenkey", "stage": "search", "holdout": 0.25}
    runs = [
        *errors([2.0, 2.1], learning_rate=1e-3, **search),
        *errors([1.0, 1.1], learning_rate=2e-3, **search),
    ]
    rows = tabulate(runs).search
    assert [row.settings["learning_rate"] for row in rows] == ["0.002", "0.001"]
    assert [row.leading for row in rows] == [True, False]


def test_a_search_that_goes_by_the_loss_is_led_by_the_smallest_loss():
    """Here the run with the larger loss has the better metric."""
    runs = [
        with_loss(run, loss)
        for run, loss in zip(
            with_values(
                [
                    record(method="lora", stage="search", learning_rate=rate)
                    for rate in (1e-3, 2e-3)
                ],
                [0.7, 0.9],
            ),
            [0.5, 0.8],
            strict=True,
        )
    ]
    found, _ = newest(find_runs(runs, "steps", "lora"))
    rows = tabulate_search(found, "loss")
    assert [row.settings["learning_rate"] for row in rows] == ["0.001", "0.002"]
    assert [row.leading for row in rows] == [True, False]


def with_loss(run, loss):
    summary = dataclasses.replace(run.result.eval_loss, last=loss)
    return dataclasses.replace(run, result=dataclasses.replace(run.result, eval_loss=summary))
