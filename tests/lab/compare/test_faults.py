"""Folders and storages that cannot be used, and plans that contradict those before them."""

import os
import resource
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from hiddenkey import ConfigError
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.outline import Outline
from hiddenkey.lab.plans import agreement
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.queue import storage
from hiddenkey.lab.queue.folder import WorkFolder
from hiddenkey.lab.queue.storage import open_storage
from hiddenkey.lab.queue.store import JobStore
from lab.compare.driver import begin, outcomes, run_here, worker_for

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@contextmanager
def no_file_above(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def as_nobody():
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_full_folder_is_told_before_anything_is_trained(plan):
    with no_file_above(2**19), pytest.raises(ConfigError, match=r"free space.*finished runs are"):
        begin(plan)
    assert not list(Path(plan.output).glob("study.db"))


def test_a_read_only_folder_is_told(plan):
    outline = Outline(plan, check(plan))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        for output in (folder, f"{folder}/new"):
            with as_nobody(), pytest.raises(ConfigError, match=r"can be written, got .*Permission"):
                Coordinator(replace(plan, output=output), outline)
        assert not os.listdir(folder)


def test_a_folder_below_a_file_is_told(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"can be written, got .*Not a directory"):
        begin(replace(plan, output=str(tmp_path / "file" / "new")))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "must be the URL of a database, got 'nonsense'"),
        ("oracle7://host/x", "must be the URL of a database, got 'oracle7://host/x'"),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            r"can be reached and written, 'postgresql://me:\*\*\*@127.0.0.1:1/x' is not"
            r" \(.*refused.*\); start the server",
        ),
        (
            "postgresql://me:secret@host:port/x",
            r"URL of a database, got 'postgresql://me:\*\*\*@host",
        ),
        ("no://me:sec@ret@host:1:2/x", r"must be the URL of a database, got 'no://me:\*\*\*@host"),
        ("mysql://me@host/x", "needs a database driver that is not installed"),
        ("sqlite:////no/such/folder/study.db", "can be reached .*unable to open"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told(plan, url, message):
    with pytest.raises(ConfigError, match=message) as error:
        begin(replace(plan, storage=url))
    assert "secret" not in str(error.value)
    assert "sec@ret" not in str(error.value)


def test_a_storage_may_be_given_by_the_environment(plan, tmp_path, monkeypatch):
    path = tmp_path / "elsewhere.db"
    monkeypatch.setenv("HIDDENKEY_STORAGE", f"sqlite:///{path}")
    begin(plan)
    assert path.is_file()
    assert not (Path(plan.output) / "study.db").exists()
    begin(replace(plan, storage=f"sqlite:///{tmp_path / 'given.db'}"))
    assert (tmp_path / "given.db").is_file(), "the plan's own wins"


def test_an_outage_is_outlasted(plan, monkeypatch):
    pauses, answers = [], [StorageInternalError("gone"), OperationalError("away", {}, None), 7]
    monkeypatch.setattr(storage.time, "sleep", pauses.append)

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    server = replace(plan, storage="postgresql://host/x").job_store
    assert storage.outlast_outages(server, call) == 7
    assert pauses == [1, 2]
    answers[:] = [StorageInternalError("gone")] * 2
    with pytest.raises(StorageInternalError):
        storage.outlast_outages(server, call, seconds=-1)
    answers[:] = [StorageInternalError("disk full"), 7]
    with pytest.raises(StorageInternalError):
        storage.outlast_outages(plan.job_store, call)


@pytest.mark.parametrize("reads", [True, False])
def test_an_interruption_during_an_outage_is_one(plan, monkeypatch, reads):
    """Optuna would raise what the database says, and the worker would wait for it."""
    coordinator = begin(plan)
    coordinator.advance()
    worker = worker_for(coordinator)

    def away(*_, **__):
        raise StorageInternalError("away")

    def interrupt(*_):
        storage = coordinator._storage
        monkeypatch.setattr(storage, "set_trial_state_values", away)
        if not reads:
            monkeypatch.setattr(storage, "get_trial", away)
        raise KeyboardInterrupt

    monkeypatch.setitem(worker._work, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.take_one()


def test_a_file_that_is_no_database_is_told(plan):
    Path(plan.output).mkdir()
    (Path(plan.output) / "study.db").write_text("no database at all, but long enough" * 100)
    with pytest.raises(ConfigError, match=r"study.db is damaged \(file is not .*\); delete it and"):
        begin(plan)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_database_may_be_deleted(plan, kept):
    plan = replace(plan, methods=("lora",))
    before = outcomes(run_here(plan).records())
    path = Path(plan.output) / "study.db"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ConfigError, match=r"study.db is damaged .*; delete it and run the same"):
        run_here(plan)
    for left in path.parent.glob("study.db*"):
        left.unlink()
    assert outcomes(run_here(plan).records()) == before


def test_a_folder_may_have_any_name(plan):
    plan = replace(plan, methods=("lora",), seeds=(0,), output=plan.output + "-{x} 100%?#ü")
    assert len(run_here(plan).records()) == 1
    assert (Path(plan.output) / "study.db").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"common": {"learning_rate": 0.5}}, r"learning_rate .* was 0.01, got 0.5 \(lora on file"),
        ({"per_method": {"lora": {"epochs": 3}}}, r"epochs .* was 10.0, got 3.0 \(lora on file\)"),
        ({"baseline": "hiddenkey"}, "baseline .* was 'lora', got 'hiddenkey'"),
        ({"search": {"trials": 3}}, "search .* was None, got"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_plan_that_contradicts_the_folder_is_refused(plan, changes, message):
    begin(plan).close()
    if "common" in changes:
        changes = {"common": {**plan.common, **changes["common"]}}
    with pytest.raises(ConfigError, match=message):
        begin(replace(plan, **changes))
    begin(replace(plan, **changes, accept_changes=True))
    begin(replace(plan, **changes, accept_changes=False))


def test_other_versions_are_refused(plan, monkeypatch):
    begin(plan)
    now = agreement.versions()
    monkeypatch.setattr(agreement, "versions", lambda: {**now, "torch": "9.9"})
    with pytest.raises(ConfigError) as error:
        begin(plan)
    (fault,) = error.value.faults
    assert fault.startswith("torch must stay the version that this folder was begun with")
    assert f"it was {now['torch']}, got 9.9;" in fault


def test_a_plan_that_adds_is_welcome(plan):
    begin(plan)
    more = replace(
        plan,
        methods=(*plan.methods, "dropkey"),
        rates=(0.3,),
        ranks=(4, 8),
        seeds=(5,),
        equal_time=True,
        per_method={"dropkey": {"learning_rate": 0.5}},
    )
    begin(more)
    with pytest.raises(ConfigError, match=r"learning_rate .* was 0.5, got 0.01 \(dropkey on file"):
        begin(replace(more, per_method={}))


def test_runs_that_left_the_plan_leave_the_queue(plan):
    coordinator = begin(plan)
    coordinator.advance()
    smaller = begin(replace(plan, methods=("lora",)))
    states = [trial.state.name for trial in smaller.studies[plan.name].get_trials()]
    assert sorted(states) == ["PRUNED", "PRUNED", "WAITING", "WAITING"]


def test_a_study_is_created_once_by_commands_that_start_together(plan):
    Path(plan.output).mkdir()
    first, second = open_storage(plan.job_store), open_storage(plan.job_store)
    for opened in (first, second):
        opened.engine.dispose()


def test_of_two_processes_one_names_the_folder(tmp_path):
    folder = WorkFolder(tmp_path)
    folder.prepare()
    name = folder.identity
    assert len(name) == 32
    assert WorkFolder(tmp_path).identity == name
    with folder.lock("job"):
        assert not folder.is_free("job")
    assert folder.is_free("job")


def test_data_that_changed_after_planning_fails_the_run(plan, tiny_options):
    coordinator = begin(replace(plan, methods=("lora",), seeds=(0,)))
    coordinator.advance()
    path = Path(tiny_options.eval_file)
    path.write_text(path.read_text().replace("bee", "cat", 1))
    worker_for(coordinator).take_one()
    coordinator.advance()
    (record,) = coordinator.records()
    assert "must be what it was when the run was planned" in record.error


def test_a_run_that_kills_its_workers_fails_in_the_end(plan):
    coordinator = begin(replace(plan, methods=("lora",), seeds=(0,)))
    coordinator.advance()
    study = coordinator.studies[plan.name]
    for _ in range(11):
        (waiting,) = study.get_trials(states=(TrialState.WAITING,))
        coordinator._give_up(study, waiting)
        progress = coordinator.advance()
    progress = coordinator.advance()
    assert progress.finished
    (record,) = coordinator.records()
    assert "its worker died 11 times" in record.error
    assert record.attempts == 11


def test_a_missing_driver_is_told_where_the_database_is_opened_alone(tmp_path, monkeypatch):
    """A package that a report needs is another matter."""
    store = JobStore(tmp_path, "postgresql://nobody@localhost/name")

    def connect(*_):
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(storage, "_connect", connect)
    with pytest.raises(ConfigError, match=r"a database driver that is not installed.*\[postgres\]"):
        open_storage(store)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"), storage.storage_errors(store):
        raise ModuleNotFoundError("No module named 'matplotlib'")
