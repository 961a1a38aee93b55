"""The plan that a comparison leaves in its folder."""

import dataclasses

import pytest

from hiddenkey.cli.commands import COMMANDS
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import read_plan, store_plan


@pytest.fixture
def plan(tmp_path):
    return Plan(
        methods=("lora", "hiddenkey"),
        rates=(0.05, 0.1),
        seeds=(0, 1, 7),
        common={"label_names": ["a b", "#c", "1"], "learning_rate": 1e-3, "rates": {"hidden": 0.2}},
        per_method={"hiddenkey": {"layers": (4, 5)}},
        search={"trials": 3},
        output=str(tmp_path / "out"),
        workers=2,
    )


def test_the_command_reads_what_was_stored(plan):
    store_plan(plan)
    found = read_plan(plan.job_store.folder)
    assert found.path == plan.job_store.folder / "plan.yaml"
    read = COMMANDS["compare"].read("compare", [str(found.path), "--seeds", "0", "1", "7", "8"])
    assert read == dataclasses.replace(
        plan, seeds=(0, 1, 7, 8), per_method={"hiddenkey": {"layers": [4, 5]}}
    )
    assert found.plan.settings() == plan.settings()


def test_what_belongs_to_one_call_and_passwords_are_left_out(plan):
    secret = "postgresql://me:secret@host/name"
    store_plan(dataclasses.replace(plan, retry_failed=True, accept_changes=True, storage=secret))
    text = (plan.job_store.folder / "plan.yaml").read_text()
    assert "secret" not in text
    assert not {"retry_failed", "accept_changes", "storage"} & {*read_plan_values(text)}
    store_plan(dataclasses.replace(plan, storage="postgresql://me@host/name"))
    assert read_plan(plan.job_store.folder).plan.storage == "postgresql://me@host/name"


def read_plan_values(text):
    return {line.partition(":")[0] for line in text.splitlines()}


def test_a_plan_that_somebody_wrote_is_not_overwritten(plan):
    path = plan.job_store.folder / "plan.yaml"
    path.parent.mkdir()
    path.write_text("# mine\nseeds: [3]\n")
    store_plan(plan)
    assert path.read_text() == "# mine\nseeds: [3]\n"
    assert read_plan(path.parent).plan.seeds == (3,)


@pytest.mark.parametrize("text", ["", "- 1\n", "sedes: [1]\n", "common: 3\n", "seeds: [0\n", None])
def test_a_file_that_is_no_plan_counts_as_none(tmp_path, text):
    if text is not None:
        (tmp_path / "plan.yaml").write_text(text)
    assert read_plan(tmp_path) is None


def test_in_a_folder_that_was_moved_it_is_of_that_folder(plan, tmp_path):
    store_plan(plan)
    (tmp_path / "out" / "locks").mkdir()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    path = str(moved / "plan.yaml")

    def read(*words):
        return COMMANDS["compare"].read("compare", list(words)).output

    assert read(path) == read("--config", path) == read(f"--config={path}") == str(moved)
    assert read(path, "--output", "elsewhere") == "elsewhere"
    copy = tmp_path / "plan.yaml"  # a copy beside other files names no folder
    copy.write_text((moved / "plan.yaml").read_text())
    assert read(str(copy)) == str(tmp_path / "out")
