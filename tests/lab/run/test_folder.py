import json
import shutil
from dataclasses import replace

import pytest
import yaml

from hiddenkey import ConfigError
from hiddenkey.files import seal
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.options import TrainOptions

DATA = {"sha256": "a"}
OPTIONS = TrainOptions(rates={"hidden": 0.2}, layers=(0, 1))


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start(OPTIONS, DATA)
    return found


def test_new_and_empty_folders_are_free(tmp_path):
    assert RunFolder(tmp_path / "new").plan(OPTIONS, DATA) == "new"
    assert RunFolder(tmp_path).plan(OPTIONS, DATA) == "new"


def test_config_file_holds_all_settings(folder):
    stored = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stored == OPTIONS.recorded()
    assert stored["layers"] == [0, 1]
    assert "output" not in stored


@pytest.mark.parametrize("name", [".config.yaml.123", ".data.json.7", "data.json"])
def test_what_a_run_left_that_died_before_it_had_settings_is_a_new_folder(name, tmp_path):
    (tmp_path / name).write_text("{")
    for options in (OPTIONS, replace(OPTIONS, resume=True)):
        assert RunFolder(tmp_path).plan(options, {}) == "new"
    RunFolder(tmp_path).clear()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).write_text("{")
    (tmp_path / ".thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        RunFolder(tmp_path).plan(OPTIONS, {})


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for options in (OPTIONS, replace(OPTIONS, overwrite=True), replace(OPTIONS, resume=True)):
        with pytest.raises(ConfigError, match="holds other files; name another"):
            RunFolder(tmp_path).plan(options, DATA)


def test_runs_are_refused_without_resume_or_overwrite(folder):
    way = f"go on with 'hiddenkey train --resume {folder.path}', replace"
    with pytest.raises(ConfigError, match=f"an interrupted one with the same settings; {way}"):
        folder.plan(OPTIONS, DATA)
    folder.write_json("result.json", {})
    with pytest.raises(
        ConfigError, match=r"a finished one with rank 8, not 4; read its result\.json, replace it"
    ):
        folder.plan(replace(OPTIONS, rank=4), DATA)
    many = replace(OPTIONS, rank=4, seed=9, epochs=1.0, task="x", batch_size=1, rate=0.3, rates={})
    with pytest.raises(ConfigError, match=r"task '.*', not 'x', .*, 2 more; read"):
        folder.plan(many, DATA)


def test_resume_and_overwrite(folder):
    assert folder.plan(replace(OPTIONS, resume=True), DATA) == "interrupted"
    folder.write_json("result.json", {})
    assert folder.plan(replace(OPTIONS, resume=True), DATA) == "interrupted", "no whole result"
    assert folder.plan(replace(OPTIONS, overwrite=True), DATA) == "new"


def test_resume_with_another_config_names_every_difference(folder):
    other = replace(OPTIONS, rank=4, rates={}, resume=True)
    with pytest.raises(ConfigError) as caught:
        folder.plan(other, DATA)
    where = f"{folder.path}: a resumed run must keep its settings,"
    advice = "take the old value, or name another folder"
    assert caught.value.faults == (
        f"{where} rank was 8, got 4; {advice}",
        f"{where} rates was {{'hidden': 0.2}}, got {{}}; {advice}",
    )


def test_resume_with_other_data_is_refused(folder):
    with pytest.raises(ConfigError, match="sha256 was 'a', got 'b'; restore the data files"):
        folder.plan(replace(OPTIONS, resume=True), {"sha256": "b"})


@pytest.mark.parametrize("content", ["{", "- a: [", "\x00", "", "[]"])
def test_corrupt_config_is_refused_on_resume(folder, content):
    (folder.path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"the earlier run cannot be read .*; use --overwrite"):
        folder.plan(replace(OPTIONS, resume=True), DATA)


def test_clear_removes_the_run_and_nothing_else(folder):
    folder.write_json("result.json", {})
    folder.write_adapter(lambda path: (path / "a").write_text("x"))
    (folder.path / "notes.txt").write_text("mine")
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_failed_adapter_leaves_the_old_one(folder):
    folder.write_adapter(lambda path: (path / "a").write_text("old"))

    def fail(path):
        (path / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.write_adapter(fail)
    assert (folder.path / "adapter" / "a").read_text() == "old"


def test_failed_write_leaves_the_old_file(folder):
    folder.write_json("result.json", {"a": 1})
    with pytest.raises(TypeError):
        folder.write_json("result.json", {"a": object()})
    assert json.loads((folder.path / "result.json").read_text()) == {"a": 1}


def test_numbers_that_json_lacks_become_null(folder):
    folder.write_lines(
        "metrics.jsonl", [{"step": 1, "seconds": float("nan"), "dropped": {"a": float("inf")}}]
    )
    assert folder.read_metrics() == [{"step": 1, "seconds": None, "dropped": {"a": None}}]


def add_checkpoint(folder, step):
    """A checkpoint beside the older ones, as a kill before their deletion leaves it."""
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"):
        (path / name).write_text(f"{name} of {step}" * 9)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    folder.write_lines(
        f"checkpoints/{path.name}/metrics.jsonl",
        [{"step": n, "seconds": n} for n in range(2, step + 1, 2)],
    )
    seal(path)
    return path


def test_last_checkpoint_is_the_newest_whole_one(folder):
    assert folder.last_checkpoint() is None
    paths = [add_checkpoint(folder, step) for step in (8, 10, 12)]
    (folder.checkpoints / "checkpoint-abc").mkdir()
    (folder.checkpoints / "checkpoint-14").write_text("a file")
    assert folder.last_checkpoint() == paths[2]
    (paths[2] / "trainer_state.json").write_text('{"global_st')
    assert folder.last_checkpoint() == paths[1]
    assert [line["step"] for line in folder.evaluations(paths[1])] == [2, 4, 6, 8, 10]
    last = folder.damages[-1]
    assert "checkpoint-12 cannot be used, trainer_state.json is damaged: the training goes" in last
    assert last.endswith("on from step 10")


def test_a_new_checkpoint_replaces_the_older_ones(folder):
    paths = [add_checkpoint(folder, step) for step in (8, 10)]
    (folder.checkpoints / "checkpoint-abc").mkdir()
    (paths[1] / "checksums.json").unlink()
    folder.keep_checkpoint(10, [{"step": 10, "seconds": 1}])
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "checkpoint-10", "checkpoint-abc",
    ]  # fmt: skip
    assert folder.last_checkpoint() == paths[1]


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "one byte"])
@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors",
     "trainer_state.json", "metrics.jsonl", "checksums.json"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_never_gone_on_from(folder, name, how):
    path = add_checkpoint(folder, 8) / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "one byte":
        path.write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])
    else:
        path.write_bytes(content[:-3] if how == "cut" else b"")
    assert folder.last_checkpoint() is None
    assert folder.damages[0].endswith(": the training goes on from step 0")


def test_a_deleted_folder_is_not_made_again(folder):
    shutil.rmtree(folder.path)
    with pytest.raises(FileNotFoundError, match="somebody deleted the run's folder"):
        folder.write_lines("metrics.jsonl", [])
    assert not folder.path.exists()


def test_a_run_killed_before_its_first_step_is_gone_on_with(folder):
    (folder.path / "data.json").unlink()
    assert folder.plan(replace(OPTIONS, resume=True), DATA) == "interrupted"
