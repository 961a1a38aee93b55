import sys
from types import SimpleNamespace

import psutil
import pytest

from hiddenkey.lab import peak_memory
from hiddenkey.lab.peak_memory import peak_memory_mib


def test_the_peak_is_at_least_what_is_resident():
    assert peak_memory_mib() >= 0.9 * psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize(
    ("told", "peak"), [({"peak_wset": 3 * 2**20}, 3.0), ({"rss": 5}, None)], ids=["windows", "else"]
)
def test_without_unix_the_system_is_asked_otherwise(told, peak, monkeypatch):
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(**told))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(peak_memory.psutil, "Process", lambda: process)
    assert peak_memory_mib() == peak
