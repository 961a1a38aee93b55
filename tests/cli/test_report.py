import pytest

from hiddenkey.cli.commands import COMMANDS
from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import store_plan
from lab.report.synthetic import record, study


def report(words):
    return COMMANDS["report"].run("report", words)


def store(folder, runs):
    for run in runs:
        run.save(folder)
    return folder


def test_report_says_the_verdict_and_where_the_page_is(tmp_path, capsys):
    folder = store(tmp_path / "compare", study(gains={"hiddenkey": 0.1}, rates=(0.1,)))
    assert report([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "headlines, step-matched: Yes: hiddenkey is better than lora." in shown
    assert f"page: {folder}/report/report.html" in shown
    assert (folder / "report" / "report.html").read_text().startswith("<!doctype html>")


def test_failures_are_said(tmp_path, capsys):
    folder = store(tmp_path, [record(), record(method="hiddenkey", error="no")])
    report([str(folder)])
    assert "1 of 2 runs failed" in capsys.readouterr().out


def test_equal_errors_are_told_once(tmp_path, capsys):
    runs = [record(seed=s, method="hiddenkey", error="long\nValueError: same") for s in range(3)]
    runs += [record(seed=s, method="dropkey", error="ValueError: same") for s in (0, 4)]
    report([str(store(tmp_path, [record(), record(seed=1, error="other"), *runs]))])
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("6 of 7 runs failed")
    assert sorted(shown[at + 1 : at + 3]) == [
        "5 runs failed alike: ValueError: same (headlines, dropkey, seeds 0 4; headlines,"
        " hiddenkey, seeds 0 1 2)",
        "failed: headlines, lora, seed 1: other",
    ]


def test_output_and_baseline(tmp_path, capsys):
    folder = store(tmp_path / "compare", study(gains={"hiddenkey": 0.1}, rates=(0.1,)))
    words = [str(folder), "--baseline", "hiddenkey", "--output", str(tmp_path / "other")]
    assert report(words) == 0
    assert "No: lora is worse than hiddenkey" in capsys.readouterr().out
    assert (tmp_path / "other" / "report.html").exists()
    assert not (folder / "report").exists()


def test_unknown_baseline_is_refused_and_nothing_is_written(tmp_path):
    folder = store(tmp_path, study(rates=(0.1,)))
    with pytest.raises(ConfigError, match=r"got 'hiddenkeys'; did you mean 'hiddenkey"):
        report([str(folder), "--baseline", "hiddenkeys"])
    assert not (folder / "report").exists()


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must be one that 'hiddenkey compare' wrote"):
        report([str(tmp_path)])


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError) as caught:
        report([str(tmp_path / "nothere.csv")])
    assert caught.value.faults == (f"{tmp_path}/nothere.csv: does not exist; check the path",)


def test_truncated_records_are_all_named(tmp_path):
    folder = store(tmp_path, study(rates=(0.1,)))
    paths = sorted((folder / "records").iterdir())
    for path in paths[:2]:
        path.write_text(path.read_text()[:200])
    with pytest.raises(ConfigError) as caught:
        report([str(folder)])
    assert len(caught.value.faults) == 2
    for path, fault in zip(paths, caught.value.faults, strict=False):
        assert fault.startswith(f"{path}: not a whole record")
        assert "run the same 'hiddenkey compare' again" in fault
    assert not (folder / "report").exists()


def test_unknown_flag_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--basline is not a setting; did you mean '--baseline'"):
        report([str(tmp_path), "--basline", "lora"])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    folder = store(tmp_path / "compare", [record()])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output must be a folder that can be written"):
        report([str(folder), "--output", str(tmp_path / "file")])


def test_it_ends_with_what_to_do(tmp_path, capsys):
    folder = store(tmp_path / "compare", study(gains={"hiddenkey": 0.1}, rates=(0.1,)))
    report([str(folder)])
    shown = capsys.readouterr().out
    assert "Train with hiddenkey. It is the only configuration" in shown
    command = "hiddenkey train --task headlines --method hiddenkey --rate 0.1 --max-steps 200"
    assert f"in a shell:\n    {command}\n" in shown
    page = (folder / "report" / "report.html").read_text()
    assert f'<pre class="code">{command}</pre>' in page
    assert page.index("headlines: hiddenkey") < page.index('id="verdict"')


def test_the_folders_plan_is_what_more_seeds_are_added_to(tmp_path, capsys):
    folder = store(tmp_path / "compare", study(rates=(0.1,)))
    store_plan(Plan(methods=("lora", "hiddenkey"), output=str(folder)))
    report([str(folder)])
    assert f"hiddenkey compare {folder}/plan.yaml --seeds 0-" in capsys.readouterr().out


def test_the_margin_is_the_plans_unless_another_is_given(tmp_path, capsys):
    runs = study(gains={"hiddenkey": 0.1}, rates=(0.1,))
    folder = store(tmp_path / "compare", runs)
    store_plan(Plan(methods=("lora", "hiddenkey"), output=str(folder), margin=0.9))
    for words, margin in (([], "0.9"), (["--margin", "0.8"], "0.8")):
        report([str(folder), *words])
        capsys.readouterr()
        page = (folder / "report" / "report.html").read_text()
        assert f"smaller than {margin}, so it hardly matters" in page


@pytest.mark.parametrize("margin", ["0", "-0.01", "inf", "nan", "much"])
def test_a_margin_that_is_none_is_refused(tmp_path, margin):
    folder = store(tmp_path / "compare", [record()])
    with pytest.raises(ConfigError, match="margin"):
        report([str(folder), "--margin", margin])
    assert not (folder / "report").exists()
