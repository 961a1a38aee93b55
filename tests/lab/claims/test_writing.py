"""The folder as a whole, and its page in a real browser."""

import json

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims import page as pages
from hiddenkey.lab.claims.page import write
from lab.claims.synthetic import claims, evidence
from lab.report.browser import chromium, show


@pytest.fixture(scope="module")
def found():
    """Three claims with a picture of each kind."""
    first, _, third, _, fifth, _ = claims()
    return evidence(planned=range(7), missing=3, chosen=(first, third, fifth), environments=2)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("claims")
    assert write(found, path) == path / "index.html"
    return path


def test_files(folder):
    pictures = {f"claims_small_{name}" for name in ("c1_1", "c1_2", "c5_1")}
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "claims.md", "evidence.json",
        *(f"{name}.{end}" for name in pictures for end in ("svg", "png")),
    }  # fmt: skip
    text = (folder / "claims.md").read_text()
    page = (folder / "index.html").read_text()
    for name in pictures:
        assert f"({name}.png)" in text
        assert f'id="figure-{name}"' in page


def test_values_effects_and_verdicts_are_plain_json(found, folder):
    read = json.loads((folder / "evidence.json").read_text())
    assert [(c["claim"], c["verdict"]) for c in read["claims"]] == [
        (finding.claim.name, finding.verdict) for finding in found.findings
    ]
    for plain, finding in zip(read["claims"], found.findings, strict=True):
        assert plain["left_out"] == dict(finding.left_out)
        assert [(q["mean"], (q["low"], q["high"]), q["values"]) for q in plain["questions"]] == [
            (e.mean, e.interval, list(e.values)) for e in finding.questions
        ]
        assert {q["expected_low"] for q in plain["questions"]} == {None}, "no infinity in JSON"
    values = {(v["task"], v["configuration"], v["measure"]): v["by_seed"] for v in read["values"]}
    assert values == {
        key: {str(seed): value for seed, value in runs.items()}
        for key, runs in found.values.items()
    }
    chosen = next(c for c in read["chosen"] if c["choice"] == "dropkey")
    assert {"learning_rate": 0.001, "rate": 0.1, "epochs": None, "held_out": 0.8123} in chosen[
        "scores"
    ]
    assert read["runs"] == found.runs
    assert [machine["cpus"] for machine in read["environments"]] == ["2", "3"]


def test_pictures_of_an_earlier_page_go_and_nothing_else(tmp_path):
    for name in ("claims_small_c7_1.png", "claims_mine.txt", "study.db"):
        (tmp_path / name).write_text("old")
    write(evidence(values={}), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", "claims.md", "evidence.json", "claims_mine.txt", "study.db",
    }  # fmt: skip


def test_one_seed_is_written_without_infinities(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "list_plots", lambda _: [])
    write(evidence(seeds=range(1)), tmp_path)
    read = json.loads((tmp_path / "evidence.json").read_text())
    assert read["claims"][0]["power"][0]["half_width"] is None


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"must be a folder that can be written, got .*taken"):
        write(evidence(values={}), tmp_path / "taken")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own connections
def test_in_a_browser_nothing_is_said_and_nothing_overflows(folder, tmp_path):
    with chromium(tmp_path) as page:
        for width, dark in ((400, False), (1400, True)):
            show(page, folder / "index.html", width=width, dark=dark)
            page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.get_log("browser") == []
            assert page.execute_script("return document.documentElement.scrollWidth") <= width
            boxes = page.execute_script(
                "return [...document.querySelectorAll('figure svg, section > p, dd, .summary td')]"
                ".map(e => e.getBoundingClientRect()).map(box => [box.left, box.right, box.height])"
            )
            assert len(boxes) > 20
            assert all(left >= 0 and right <= width and high > 0 for left, right, high in boxes)
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 22, 26)"
        )
