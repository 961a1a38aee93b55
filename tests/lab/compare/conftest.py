import os
import shutil
import subprocess
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from hiddenkey.lab.plans.plan import Plan
from lab.compare.driver import OPEN, work_in_process


@pytest.fixture(autouse=True)
def _close_connections():
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def plan(tiny_options, tmp_path):
    """Two methods, two seeds: four runs of four steps on a random model."""
    return Plan(
        tasks=("file",),
        models=(tiny_options.model,),
        methods=("lora", "hiddenkey"),
        ranks=(4,),
        seeds=(0, 1),
        common={
            "train_file": tiny_options.train_file,
            "eval_file": tiny_options.eval_file,
            "text_columns": ["text"],
            "max_length": 16,
            "batch_size": 8,
            "max_steps": 4,
            "evaluations": 2,
            "learning_rate": 1e-2,
        },
        output=str(tmp_path / "compare"),
        heartbeat=1,
        grace=3,
        report=False,
    )


@pytest.fixture(scope="session")
def context():
    """Processes that start from one with everything imported, so that starting takes no time."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["hiddenkey.lab.compare.worker"])
    return context


@pytest.fixture
def start(context):
    """Start the command of a plan in a process of its own; none outlives the test."""
    started = []

    def start(plan):
        process = context.Process(target=work_in_process, args=(plan,))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a condition holds."""

    def wait(condition, seconds=60):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not happen"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def postgres(postgres_server):
    """URL of a database on a PostgreSQL server of this test session's own."""
    return postgres_server[0]


@pytest.fixture
def restart_postgres(postgres_server):
    """Stop the server at once, and start it again after some seconds."""

    def restart(seconds):
        _, call, where = postgres_server
        call("pg_ctl", *where, "-m", "immediate", "-w", "stop")
        time.sleep(seconds)
        call("pg_ctl", *where, "-w", "start")

    return restart


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=_version)
    if binaries is None:
        message = "no /usr/lib/postgresql/*/bin; install Debian's package postgresql"
        if os.environ.get("HIDDENKEY_REQUIRE_TOOLS"):
            pytest.fail(message)
        pytest.skip(message)
    # the path of a socket may be no longer than some 100 characters
    with tempfile.TemporaryDirectory(prefix="hk-pg-", dir="/tmp") as folder:
        as_server = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
            as_server = ["runuser", "-u", "postgres", "--"]
        data, log = f"{folder}/data", f"{folder}/log"
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"

        def call(tool, *words):
            subprocess.run(
                [*as_server, str(binaries / tool), *words],
                check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip

        call("initdb", "-D", data, "-U", "tester", "-A", "trust", "-N")
        call("pg_ctl", "-D", data, "-l", log, "-o", settings, "-w", "start")
        try:
            url = f"postgresql://tester@/postgres?host={folder}"
            yield url, call, ("-D", data, "-l", log, "-o", settings)
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _version(binaries):
    return int(binaries.parent.name)
