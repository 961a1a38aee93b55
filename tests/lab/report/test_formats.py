import csv
import io

import pytest

from hiddenkey.lab.present.entries import Entry, make_grid
from hiddenkey.lab.present.formats import to_csv, to_latex, to_markdown
from hiddenkey.lab.present.words import MISSING, listing, number, numbers, probability, signed
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.report.comparison_grids import comparison_grid, methods_grid
from hiddenkey.lab.report.grids import scope_grids, search_grid
from hiddenkey.lab.report.history import curves_grid, failures_grid, runs_grid
from lab.report.synthetic import record, study

NASTY = "a|b & 50 % <script> #1 \\ $x_{y}$ ~^ *z*"


def read(grid):
    return list(csv.DictReader(io.StringIO(to_csv(grid))))


def test_csv_keeps_all_digits_and_leaves_missing_values_empty():
    rows = [[Entry("x", "x"), Entry("0.333", 1 / 3)], [Entry("y", "y"), Entry(MISSING, None)]]
    grid = make_grid("n", "t", ("name", "value"), rows)
    assert grid.numeric == (False, True)
    assert read(grid) == [{"name": "x", "value": repr(1 / 3)}, {"name": "y", "value": ""}]


def test_csv_quotes_lines_commas_and_quotes():
    text = 'one, "two"\nthree'
    assert read(make_grid("n", "t", ("a",), [[Entry(text, text)]])) == [{"a": text}]


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1|x", "@SUM(A1)", "\t=1", "\n=1", "\uff1d1"])
def test_csv_has_no_cell_that_a_spreadsheet_runs(text):
    rows = [[Entry(text, text), Entry("x", -1.5, details=(text,))]]
    written = list(csv.reader(io.StringIO(to_csv(make_grid("n", "t", (text, "b"), rows)))))
    assert written[0][0] == written[1][0] == f"'{text}"
    assert written[1][1] == "-1.5"


def test_markdown_escapes_and_keeps_one_line_per_row():
    grid = make_grid("n", NASTY, ("a",), [[Entry(f"{NASTY}\nmore", "", True, ("small",))]])
    lines = to_markdown(grid).splitlines()
    row = lines[4]
    assert row.startswith("| **a\\|b \\& 50 % \\<script\\>")
    assert row.endswith("more**<br>small |")
    assert row.replace("\\|", "").count("|") == 2


def test_latex_escapes_every_special_character():
    grid = make_grid("a_b", "t", ("a",), [[Entry(NASTY + " ± − ×", "")]])
    text = to_latex(grid)
    assert (
        r"a|b \& 50 \% \textless{}script\textgreater{} \#1 \textbackslash{} \$x\_\{y\}\$"
        r" \textasciitilde{}\textasciicircum{} *z* $\pm$ $-$ $\times$ \\"
    ) in text
    assert r"\label{tab:a-b}" in text
    assert r"\toprule" in text


def test_latex_row_does_not_begin_with_what_the_line_before_would_take():
    text = to_latex(make_grid("n", "t", ("a",), [[Entry("[0, 1]", "")], [Entry("*", "")]]))
    assert "\n{}[0, 1]" in text
    assert "\n{}*" in text


def scope_of(runs):
    return tabulate(runs).scopes[0]


def test_methods_grid_is_bold_at_the_largest_mean_and_says_significance_in_words():
    scope = scope_of(study(gains={"hiddenkey": 0.1}, rates=(0.1,)))
    grid = methods_grid(scope, "last", "lora")
    assert grid.columns == ("configuration", "headlines: accuracy")
    assert [[entry.strong for entry in row] for row in grid.rows] == [[False] * 2, [False, True]]
    ours = grid.rows[1][1]
    assert ours.details[-1] == "better"
    difference, interval = ours.details[1].split(" ", 1)
    assert float(difference) == pytest.approx(0.1, abs=0.01)  # the gain, and the seeds' noise
    assert interval.startswith("[")
    assert "**" in to_markdown(grid)
    assert r"\textbf{" in to_latex(grid)
    assert any("alone is no finding" in note for note in grid.notes)
    best = methods_grid(scope, "best", "lora")
    assert any("chosen on the evaluation examples" in note for note in best.notes)


def test_selection_grid_says_that_it_is_selection():
    grids = {grid.name: grid for grid in scope_grids(scope_of(study()), "lora").values()}
    grid = grids["methods_selected"]
    assert grid.notes[0].startswith("This is selection")
    assert [row[0].text for row in grid.rows] == ["lora", "hiddenkey"]
    assert grid.rows[1][1].details[0].endswith("best of 2")
    assert "selected" not in scope_grids(scope_of(study(rates=(0.1,))), "lora")


def test_comparison_grid_has_every_number():
    scope = scope_of(study(rates=(0.1,)))
    rows = read(comparison_grid(scope, "lora"))
    assert [(r["configuration"], r["metric"], r["checkpoint"]) for r in rows] == [
        (setting, metric, checkpoint)
        for metric in ("accuracy", "loss")
        for checkpoint in ("last", "best")
        for setting in ("lora", "hiddenkey")
    ]
    (configuration,) = [
        configuration
        for configuration in scope.configurations
        if configuration.method == "hiddenkey"
    ]
    found = scope.tasks[0].find(configuration, "last")
    row = rows[1]
    assert float(row["difference"]) == found.comparison.difference
    assert float(row["p (Holm)"]) == found.comparison.p_adjusted
    assert row["verdict"] == found.comparison.verdict
    assert rows[0]["difference"] == ""


def test_missing_numbers_are_said_in_every_grid():
    runs = [*study(rates=(0.1,)), record(method="dropkey", error="no")]
    grid = methods_grid(scope_of(runs), "last", "lora")
    row = next(row for row in grid.rows if row[0].text == "dropkey")
    assert (row[1].value, row[1].details) == (None, ("all runs failed",))


def test_runs_grid_holds_all_settings_and_the_environment():
    runs = study(rates=(0.1,), seeds=range(2))
    rows = read(runs_grid(tabulate([*runs, record(method="hiddenkey", seed=5, error="no")])))
    assert len(rows) == 5
    assert {row["option seed"] for row in rows} == {"0", "1", "5"}
    assert {row["option learning_rate"] for row in rows} == {"0.001"}
    assert {row["environment torch"] for row in rows} == {"2.13.0+cpu"}
    assert [row["last"] == "" for row in rows] == [row["status"] == "failed" for row in rows]


def test_failures_grid_holds_the_whole_error():
    error = "Traceback\n" + "x" * 10_000
    (row,) = read(failures_grid(tabulate([record(error=error)])))
    assert row["error"] == error


def test_curves_grid_has_a_row_for_each_point():
    rows = read(curves_grid(tabulate(study(rates=(0.1,)))))
    assert len(rows) == 2 * 2 * 3 * 5  # configurations, metrics, parts, evaluations


def test_search_grid_is_bold_at_the_leading_setting():
    runs = [record(learning_rate=rate, stage="search", seed=100) for rate in (1e-3, 2e-3)]
    grid = search_grid(tabulate(runs))
    assert [row[grid.columns.index("best")].strong for row in grid.rows] == [True, False]
    assert any("held-out part of the training examples" in note for note in grid.notes)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(-0.0001), "0.000"),
        (number(-0.12), "−0.120"),
        (number(None), MISSING),
        (signed(0.0002), "+0.000"),
        (signed(-0.5), "−0.500"),
        (probability(0.0312), "= 0.031"),
        (probability(0.0001), "< 0.001"),
        (listing(["a", "b", "c"]), "a, b and c"),
        (listing(["a", "b", "c", "d", "e"]), "a, b, c and 2 more"),
    ],
)
def test_words(shown, expected):
    assert shown == expected


def test_many_neighbours_are_named_by_their_ends():
    assert numbers([3, 1, 2, 100]) == "1 2 3 100"
    assert numbers([*range(30), 40]) == "0-29 40"


def test_huge_numbers_have_an_exponent():
    assert number(123456789.0) == "123456789.000"
    assert signed(1.5e12) == "+1.500e+12"
