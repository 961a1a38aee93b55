import dataclasses
import sys
from types import SimpleNamespace

import psutil
import pytest

from hiddenkey.cli.train import _footer
from hiddenkey.lab.report import tabulate, write_report
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.memory import peak_resident_mib
from lab.report.synthetic import record


def test_the_peak_is_at_least_what_is_resident():
    assert peak_resident_mib() >= 0.9 * psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize(
    ("told", "peak"), [({"peak_wset": 3 * 2**20}, 3.0), ({"rss": 5}, None)], ids=["windows", "else"]
)
def test_without_unix_the_system_is_asked_otherwise(told, peak, monkeypatch):
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(**told))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert peak_resident_mib() == peak


def without_peak(run):
    return dataclasses.replace(run, result=dataclasses.replace(run.result, peak_memory_mib=None))


def test_a_run_says_that_its_peak_is_unknown():
    assert "peak unknown\n" in _footer(without_peak(record()).result, TrainOptions())


def test_a_report_leaves_out_what_is_unknown(tmp_path):
    runs = [without_peak(record(method=method)) for method in ("lora", "hiddenkey")]
    tables = tabulate(runs, "lora")
    costs = tables.scopes[0].tasks[0].costs
    assert [(cost.memory_mib, cost.memory) for cost in costs] == [(None, None)] * 2
    write_report(tables, tmp_path, title="runs")
    assert "nan" not in (tmp_path / "tables" / "cost.csv").read_text(encoding="utf-8")
