"""The time that is left, and what a terminal shows of workers while they run."""

import os
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from hiddenkey.cli.live import Board, TimeLeft
from hiddenkey.lab.compare.coordinator import Progress
from hiddenkey.lab.compare.outline import run_job
from hiddenkey.lab.plans.identity import Run
from hiddenkey.lab.queue.live import Doing, Live, look
from hiddenkey.lab.run.options import TrainOptions
from lab.report.synthetic import record
from screen import Screen, open_terminal, read_all


def timed(seconds, **options):
    minutes, rest = divmod(seconds, 60)
    ended = f"2026-01-02T03:{minutes:02d}:{rest:02d}+00:00"
    return replace(record(**options), ended=ended)


def job(**options):
    return run_job(Run(TrainOptions(max_steps=200, **options), "data"))


def standing(left, total=None, done=0, running=0, new=()):
    total = done + len(left) if total is None else total
    return Progress(done, total, running, tuple(new), not left, tuple(left))


def estimate(standing, workers=1, doing=(), known=(60, 120)):
    time = TimeLeft()
    time.learn(
        timed(seconds, method=method)
        for seconds, method in zip(known, ("lora", "hiddenkey"), strict=False)
    )
    return time.estimate(standing, workers, doing)


def test_each_kind_of_run_takes_what_its_own_took():
    """A linear bar would say 90 s a run."""
    slow, fast = job(method="hiddenkey"), job(method="lora")
    assert estimate(standing([slow, slow, slow])) == 360
    assert estimate(standing([fast, fast, fast])) == 180
    assert estimate(standing([slow, fast, job(method="dropkey")])) == 120 + 60 + 90


def test_workers_share_what_is_left_and_one_run_is_not_shared():
    fast = job(method="lora")
    assert estimate(standing([fast] * 4), workers=2) == 120
    assert estimate(standing([fast] * 4, running=4), workers=2) == 60, "of other machines too"
    assert estimate(standing([fast]), workers=2) == 60


def test_what_is_made_of_a_run_is_not_left():
    fast = job(method="lora")
    half = Doing("a run", 50, 100)
    assert estimate(standing([fast, fast]), workers=2, doing=[half, half]) == 30
    assert estimate(standing([fast]), doing=[Doing("unknown")]) == 60


def test_jobs_that_cannot_be_named_yet_count():
    assert estimate(standing([job(method="lora")], total=4, done=1)) == 60 + 2 * 90


def test_nothing_is_said_before_the_first_run_has_ended():
    assert estimate(standing([job()]), known=()) is None


def test_a_worker_tells_what_it_does_and_that_it_stopped(tmp_path):
    live = Live(tmp_path)
    live.tell(Doing("a run", 3, 10))
    assert look(tmp_path, os.getpid()) == Doing("a run", 3, 10)
    live.tell(Doing("a run", 4, 10))  # a moment later
    assert look(tmp_path, os.getpid()).step == 3
    live.tell(Doing("a run", 5, 10, "accuracy 0.5"), now=True)
    assert look(tmp_path, os.getpid()) == Doing("a run", 5, 10, "accuracy 0.5")
    live.clear()
    assert look(tmp_path, os.getpid()) is None
    (tmp_path / f"{os.getpid()}.json").write_text("{")
    assert look(tmp_path, os.getpid()) is None
    Live(None).tell(Doing("a run"))
    Live(tmp_path / "missing").tell(Doing("a run"))


@pytest.fixture
def terminal():
    """A console on a real pseudo-terminal, and a function that returns its lines so far."""
    ours, theirs = open_terminal()
    screen, pieces = Screen(), []
    reader = threading.Thread(target=lambda: pieces.extend(read_all(ours)))
    reader.start()
    file = os.fdopen(theirs, "w", encoding="utf-8")

    def lines():
        file.close()
        reader.join(10)
        screen.feed(b"".join(pieces).decode())
        return screen.lines, b"".join(pieces).decode()

    yield Console(file=file, width=90, height=24, color_system=None), lines
    os.close(ours)


def test_a_terminal_shows_the_time_left_and_a_line_for_each_worker(terminal, tmp_path):
    console, lines = terminal
    left = [job(method="lora"), job(method="lora")]
    with Board(console, tmp_path, 2) as board:
        begun = standing(left, done=1, new=[timed(60, method="lora")])
        board.ended(begun, ["a run ended"])
        live = Live(tmp_path)
        for step in (10, 50):
            live.tell(Doing("headlines, lora, seed 1", step, 100, "accuracy 0.8123"), now=True)
            board.draw(begun, [os.getpid(), 1])
            board._bar.refresh()
    shown, raw = lines()
    drawn = Screen()
    states = []
    for piece in raw.split("\r"):
        drawn.feed(piece + "\r")
        states.append("\n".join(line.rstrip() for line in drawn.lines))
    moved = next(state for state in states if "50/100" in state and "waits for a job" in state)
    assert any("10/100" in state for state in states)
    last = [" ".join(line.split()) for line in moved.splitlines()[-3:]]
    assert last[0].startswith("jobs")
    assert last[0].endswith("1/3 about 45 s left"), "half of one of two runs is made"
    assert last[1].startswith("headlines, lora, seed 1")
    assert last[1].endswith("50/100 accuracy 0.8123")
    assert last[2].startswith("waits for a job")
    assert shown[0].startswith("a run ended")
    rest = [line.strip() for line in shown if line.strip()]
    assert len(rest) == 2, "workers' lines are gone at the end"
    assert rest[1].startswith("jobs")


def test_elsewhere_plain_lines_say_how_far_it_is(capsys):
    with Board(Console(width=80), None, 2) as board:
        now = standing([job(method="lora")] * 3, done=1, new=[timed(40, method="lora")])
        board.ended(now, ["a run ended"])
        board.draw(now, [1, 2])
        board.ended(standing([job(method="lora")], done=3), [])
    assert capsys.readouterr().out == "a run ended\n1 of 4 jobs done, about 60 s left\n"
