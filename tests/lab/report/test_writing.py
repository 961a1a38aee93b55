import json
import os
import re
from html.parser import HTMLParser

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.report import tabulate, write_report
from lab.report.synthetic import record, study

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'n' </script><!-- {{ 7*7 }} ]]>"


class Page(HTMLParser):
    """Collects tags, ids and links, and checks that elements are closed in order."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[name] for name in ("href", "src", "action") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report on runs whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    runs = study(tasks=(f"task {HOSTILE}",), chosen=("lora", "hiddenkey"), seeds=range(3))
    runs += [
        record(method="dropkey", task=f"task {HOSTILE}", seed=1, error=f"Error: {HOSTILE}",
               environment={HOSTILE: HOSTILE}, model=HOSTILE)
    ]  # fmt: skip
    write_report(tabulate(runs), folder, title=HOSTILE)
    return folder


def test_hostile_text_stays_text(hostile):
    text = (hostile / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    scripts = [values for tag, values in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7*7 }}" in text
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert HOSTILE in json.loads(data)["environments"][1]


def test_page_needs_no_network_and_lets_no_other_script_run(hostile):
    text = (hostile / "report.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(v["content"] for t, v in page.tags if v.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_ids_are_unique_and_links_lead_somewhere(hostile):
    page = Page((hostile / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    anchors = [
        link[1:] for tag, v in page.tags if tag == "a" and (link := v["href"]).startswith("#")
    ]
    assert set(anchors) <= set(page.ids)
    labelled = [values["aria-labelledby"] for _, values in page.tags if "aria-labelledby" in values]
    assert set(labelled) <= set(page.ids)


def test_the_verdict_comes_first_and_failed_runs_last(tmp_path):
    runs = study(tasks=("cola", "rte"), chosen=("lora", "dropkey", "hiddenkey"), seeds=range(3))
    runs += [
        record(task="cola", method="hiddenkey", rate=0.1, seed=s, budget="time", max_steps=99)
        for s in range(3)
    ]
    runs += [record(task="cola", stage="search", seed=100, fingerprint="v" * 64)]
    written = write_report(tabulate(runs), tmp_path, "compare")
    page = Page(written.page.read_text())
    sections = [values["id"] for tag, values in page.tags if tag == "section"]
    assert sections == [
        "verdict", "reading", "comparison", "differences", "rate", "curves", "seeds", "cost",
        "ranks", "equal-time", "search", "runs", "failed",
    ]  # fmt: skip
    assert "No run failed." in written.page.read_text()


def test_every_figure_and_table_has_its_files(tmp_path):
    tables = tabulate([*study(seeds=range(3)), record(method="hiddenkey", seed=9, error="no")])
    written = write_report(tables, tmp_path, "compare")
    figures = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert figures == {".png", ".svg"}
    assert len(list((tmp_path / "figures").glob("*.png"))) == written.figures
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    for stem in ("methods_last", "methods_best", "methods_selected", "comparison", "gap", "cost"):
        assert {f"{stem}.csv", f"{stem}.md", f"{stem}.tex"} <= names
    assert {"runs.csv", "curves.csv", "failed.csv"} <= names
    assert not list(tmp_path.rglob(".*"))


def test_a_report_is_the_same_when_written_again(tmp_path):
    tables = tabulate(study(seeds=range(3)))
    first = write_report(tables, tmp_path / "a", "compare")
    second = write_report(tables, tmp_path / "b", "compare")
    assert first.page.read_bytes() == second.page.read_bytes()
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_older_files_of_the_report_go_and_others_stay(tmp_path):
    write_report(tabulate(study(tasks=("cola", "rte"), seeds=range(2))), tmp_path, "compare")
    own = tmp_path / "figures" / "my_drawing.png"
    own.write_bytes(b"mine")
    assert (tmp_path / "figures" / "seeds_rte.png").exists()
    write_report(tabulate(study(tasks=("cola",), seeds=range(2))), tmp_path, "compare")
    assert not (tmp_path / "figures" / "seeds_rte.png").exists()
    assert (tmp_path / "figures" / "seeds_cola.png").exists()
    assert own.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "content", ['["../victim", "tables/../../victim", 3]', "not json", "{}", "3"]
)
def test_the_list_of_older_files_cannot_name_foreign_ones(tmp_path, content):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "contents.json").write_text(content)
    write_report(tabulate([record()]), folder, "compare")
    assert victim.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ConfigError, match=r"output must be a folder that can be written, got .*file"
    ):
        write_report(tabulate([record()]), tmp_path / "file", "compare")


def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch):
    tables = tabulate([record()])
    write_report(tables, tmp_path, "old")
    before = (tmp_path / "report.html").read_bytes()

    def full(file):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_report(tables, tmp_path, "new")
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.rglob(".*"))


def test_long_errors_are_cut_on_the_page_and_whole_in_the_file(tmp_path):
    error = "first line\n" + "middle\n" * 5000 + "ValueError: last line"
    written = write_report(tabulate([record(error=error)]), tmp_path, "compare")
    text = written.page.read_text()
    assert text.count("middle") < 1000
    assert "ValueError: last line" in text
    assert error in (tmp_path / "tables" / "failed.csv").read_text()


def test_equal_errors_are_told_once(tmp_path):
    runs = [record(seed=seed, error="long\nRuntimeError: same") for seed in range(30)]
    text = write_report(tabulate(runs), tmp_path, "compare").page.read_text()
    assert text.count("<pre>") == 1
    assert "(30 runs)" in text
    assert "and 10 more: tables/failed.csv" in text
