"""The state of a job follows from all its trials."""

import optuna
import pytest
from optuna.trial import TrialState as S

from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.jobs import Job
from hiddenkey.lab.queue.storage import MOST_DEATHS

JOB = Job("key", "run", {"a": 1}, {})


@pytest.fixture
def study():
    return optuna.create_study(direction="maximize")


def add(study, *states):
    for state, *attributes in states:
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=1.0 if state == S.COMPLETE else None,
                user_attrs={**JOB.attributes(), **dict.fromkeys(attributes, "x")},
            )
        )
    return jobs.states(study.get_trials())


@pytest.mark.parametrize(
    ("trials", "status"),
    [
        ([(S.WAITING,)], "waiting"),
        ([(S.RUNNING,), (S.WAITING,)], "running"),
        ([(S.RUNNING,), (S.COMPLETE,)], "finished"),
        ([(S.COMPLETE,), (S.FAIL, "error")], "finished"),
        ([(S.FAIL,)], "missing"),
        ([(S.FAIL, "error")], "failed"),
        ([(S.FAIL, "error"), (S.WAITING,)], "waiting"),
        ([(S.FAIL, "error"), (S.FAIL,)], "missing"),
        ([(S.FAIL,)] * MOST_DEATHS, "missing"),
        ([(S.FAIL,)] * (MOST_DEATHS + 1), "lost"),
        ([(S.FAIL, "stopped")] * (MOST_DEATHS + 1), "missing"),
        ([(S.FAIL,)] * (MOST_DEATHS + 1) + [(S.FAIL, "error"), (S.FAIL,)], "missing"),
    ],
)
def test_status(study, trials, status):
    assert add(study, *trials)["key"].status == status


def test_trials_that_were_drawn_for_nothing_do_not_count(study):
    study.add_trial(optuna.create_trial(state=S.PRUNED))
    assert add(study, (S.PRUNED,)) == {}


def test_of_two_trials_the_first_one_stays(study):
    add(study, (S.FAIL,), (S.RUNNING,), (S.RUNNING,), (S.WAITING,))
    trials = study.get_trials()
    assert [jobs.is_second(trial, trials) for trial in trials[1:3]] == [False, True]
    add(study, (S.COMPLETE,))
    trials = study.get_trials()
    assert jobs.is_second(trials[1], trials)


def test_a_job_queued_again_keeps_what_was_drawn(study):
    jobs.enqueue(study, JOB, None)
    first = study.ask()
    drawn = first.suggest_float("learning_rate", 0.0, 1.0)
    study.tell(first, state=S.FAIL)
    state = jobs.states(study.get_trials())["key"]
    assert (state.status, state.begun) == ("missing", 1)
    jobs.enqueue(study, JOB, state.trial)
    second = study.ask()
    assert second.suggest_float("learning_rate", 0.0, 1.0) == drawn
    assert Job.of(study.get_trials()[1]) == Job("key", "run", {"a": 1}, {"learning_rate": drawn})


def test_a_signature_is_not_inherited(study):
    jobs.enqueue(study, JOB, None)
    trial = study.ask()
    jobs.sign(trial, "folder", 7)
    signed = study.get_trials()[0]
    assert jobs.owner(signed)["process"] == 7
    study.add_trial(optuna.create_trial(state=S.RUNNING, user_attrs=signed.user_attrs))
    assert jobs.owner(study.get_trials()[1]) is None
