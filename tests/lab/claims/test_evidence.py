"""From plans to evidence: what is run, what is shared, what goes on after a stop."""

import dataclasses
import shutil

import optuna
import pytest
from optuna.trial import TrialState

from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims import reading
from hiddenkey.lab.claims.evidence import gather
from hiddenkey.lab.claims.findings import Setting
from hiddenkey.lab.claims.outline import EvidenceOutline, PlainCosts
from hiddenkey.lab.compare import survey
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.jobs import State
from lab.claims.conftest import edit
from lab.compare.driver import finish, worker_for
from lab.report import synthetic

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Study:
    """The evidence of a folder of plans, worked off in this process."""

    def __init__(self, plans, *names):
        self.claims, self.scale = reading.read_plans(plans, "mine", names)
        self.store = Plan(tasks=(), output=str(plans.parent / "out"), study="claims out")
        self.outline = EvidenceOutline("claims out", self.claims, self.scale, Data(), {})

    def run(self, jobs=None):
        with Coordinator(self.store, self.outline) as coordinator:
            if jobs is None:
                finish(coordinator)
                return coordinator.problems()
            worker = worker_for(coordinator)
            for _ in range(jobs):
                coordinator.advance()
                assert worker.take_one()
            coordinator.advance()
        return []

    def states(self):
        return survey.look(self.store, self.outline).get("claims out", {})

    def evidence(self):
        return gather(self.claims, self.scale, self.outline, self.states(), "hiddenkey claims")


def test_from_plans_to_verdicts_and_on_after_a_stop(plans):
    study = Study(plans)
    assert study.outline.total == 4 + 3 * 2 + 1  # choices, configurations by seeds, a timing
    assert len(study.outline.jobs({})["claims out"]) == 4  # the rest waits for the choices

    study.run(jobs=6)
    half = study.evidence()
    assert half.runs == 6
    assert [finding.missing for finding in half.findings] == [4, 1]
    assert {finding.verdict for finding in half.findings} == {"cannot tell"}

    begun = {record.id: record.ended for record in read_records(plans.parent / "out")}
    again = Study(plans)
    assert again.run() == []
    found = again.evidence()
    records = read_records(plans.parent / "out")
    assert begun.items() <= {record.id: record.ended for record in records}.items()
    assert (found.runs, len(records)) == (10, 10)
    assert [finding.missing for finding in found.findings] == [0, 0]
    assert {r.stage for r in records} == {"search", "compare"}

    compared = {
        (r.options["method"], r.options["rate"], r.options["seed"]): r
        for r in records
        if r.stage == "compare"
    }
    lora, dropkey = sorted(found.chosen, key=lambda chosen: chosen.choice, reverse=True)
    assert (lora.runs, dropkey.runs) == (2, 2)
    assert (lora.setting.rate, dropkey.setting.rate) == (None, 0.1)
    for (method, rate, _), record in compared.items():
        as_lora = method == "lora" or rate == 0.5
        wanted = lora.setting.learning_rate if as_lora else dropkey.setting.learning_rate
        assert record.options["learning_rate"] == wanted
        assert record.result.metrics["accuracy"].last is not None
    values = found.values["words", "strong", "metric"]
    assert values == {
        seed: pytest.approx(100 * compared["dropkey", 0.5, seed].result.metrics["accuracy"].last)
        for seed in (0, 1)
    }
    assert found.values["words", "dropkey", "step time"][0] > 0
    assert found.environments[0][1] == 10
    assert found.started <= found.ended

    (plans.parent / "out" / "study.db").unlink()
    kept = Study(plans).evidence()
    assert kept.runs == 10
    assert [finding.missing for finding in kept.findings] == [0, 0]
    shutil.rmtree(plans.parent / "out" / "costs")  # as where only the records were carried along
    kept = Study(plans).evidence()
    assert [finding.missing for finding in kept.findings] == [0, 1]
    assert kept.values["words", "strong", "metric"] == values


def test_a_choice_is_open_again_when_one_of_its_runs_is_asked_for_again(plans):
    study = Study(plans, "C1")
    listed = [job for job in study.outline.jobs({})["claims out"] if "rate" not in options_of(job)]
    states = {job.key: ended(job, last=0.5) for job in listed}
    task_and_choice = ("words", "lora")
    assert study.outline.chosen(states)[task_and_choice].setting.learning_rate == 0.01

    better = max(listed, key=lambda job: options_of(job)["learning_rate"])
    assert options_of(better)["learning_rate"] == 0.02
    again = {**states, better.key: State("waiting")}
    assert study.outline.chosen(again) == {}
    again[better.key] = ended(better, last=0.9)
    assert study.outline.chosen(again)[task_and_choice].setting.learning_rate == 0.02
    again[better.key] = ended(better, error="no memory")
    assert study.outline.chosen(again)[task_and_choice].runs == 1
    assert study.outline.chosen(states)[task_and_choice].setting.learning_rate == 0.01

    again[better.key] = ended(better, error="DivergedError: the training diverged: train_loss")
    found = study.outline.chosen(again)[task_and_choice]
    assert (found.setting.learning_rate, found.runs, found.scores[Setting(0.02, None)]) == (
        0.01,
        2,
        -1.0,
    )
    lost = {job.key: ended(job, error="the training diverged") for job in listed}
    assert study.outline.chosen(lost) == {}
    assert "lora on words: no run of its choice succeeded" in study.outline.blocked(
        {"claims out": lost}
    )


def test_one_choice_for_all_tasks_waits_for_all_of_them_whatever_is_asked(plans):
    def change(scale):
        scale["choices"]["scope"] = "all tasks"
        scale["tasks"]["others"] = {**scale["tasks"]["words"], "max_length": 12}

    edit(plans / "scales" / "mine.yaml", change)
    study = Study(plans, "C1")  # whose only task is 'words'
    tried = study.outline.jobs({})["claims out"]
    lora = [job for job in tried if options_of(job).get("method", "lora") == "lora"]
    assert (len(tried), len(lora), study.outline.total) == (8, 4, 8 + 3 * 2)
    by_rate = {0.01: (0.7, 0.5), 0.02: (0.6, 0.9)}
    states = {}
    for job in lora:
        first = job is lora[0] or job is lora[1]
        states[job.key] = ended(job, last=by_rate[options_of(job)["learning_rate"]][not first])
    assert study.outline.chosen({key: states[key] for key in [*states][:3]}) == {}
    found = study.outline.chosen(states)["words", "lora"]
    assert (found.setting.learning_rate, found.runs) == (0.02, 4)  # by 'words' alone: 0.01


def options_of(job):
    return job.payload["options"]


def ended(job, **outcome):
    """The state of a run's job that ended with this metric or error."""
    stored = synthetic.record(**outcome)
    options = {**stored.options, "rate": None, **options_of(job)}
    stored = dataclasses.replace(stored, id=job.key, stage="search", options=options)
    status = "finished" if stored.error is None else "failed"
    trial = optuna.create_trial(
        state=TrialState.COMPLETE if stored.error is None else TrialState.FAIL,
        value=0.0 if stored.error is None else None,
        user_attrs=jobs.record_attribute(stored.to_dict()),
    )
    return State(status, trial)


def test_a_choice_never_sees_the_evaluation_examples(plans):
    study = Study(plans)
    evaluation = set(study.outline._data.splits(study.outline.settings()[-1]).evaluation)
    held = [options for options in study.outline.settings() if options.holdout is not None]
    assert held
    for options in held:
        assert not evaluation & set(study.outline._data.splits(options).evaluation)


def test_claims_share_runs_and_a_further_claim_adds_its_own(plans):
    edit(plans / "c1.yaml", lambda claim: claim["configurations"].pop("strong"))
    edit(
        plans / "c1.yaml", lambda claim: claim.update(contrasts=claim["contrasts"][:1], pictures=[])
    )
    first = Study(plans, "C1")
    first.run()
    second = Study(plans)
    jobs = second.outline.jobs({"claims out": second.states()})["claims out"]
    left = [job.kind for job in jobs if job.key not in second.states()]
    assert left == ["probe"]


def test_what_is_only_timed_has_its_settings_chosen_too(plans):
    """C2 compares a step's time alone, and no other claim makes DropKey's choice for it."""
    study = Study(plans, "C2")
    assert study.outline.total == 4 + 2 + 1
    tried = study.outline.jobs({})["claims out"]
    assert {options_of(job).get("method", "lora") for job in tried} == {"lora", "dropkey"}
    states = {job.key: ended(job, last=0.5) for job in tried}
    named = study.outline.jobs({"claims out": states})["claims out"]
    assert [job.kind for job in named if job.key not in states] == ["run", "run", "probe"]


def test_another_plan_of_the_scale_means_other_runs(plans):
    first = Study(plans, "C1")
    keys = {job.key for job in first.outline.jobs({})["claims out"]}
    edit(plans / "scales" / "mine.yaml", lambda scale: scale["common"].update(max_steps=5))
    other = Study(plans, "C1")
    assert not keys & {job.key for job in other.outline.jobs({})["claims out"]}


def test_a_choice_without_a_result_blocks_its_configurations_alone(plans):
    edit(
        plans / "scales" / "mine.yaml",
        lambda scale: scale["choices"]["methods"].update(dropkey={"layers": [9]}),
    )
    study = Study(plans, "C1")
    assert any("dropkey on words: no run of its choice succeeded" in p for p in study.run())
    finding = study.evidence().findings[0]
    assert finding.verdict == "cannot tell"
    assert finding.missing == 2
    assert set(study.evidence().values["words", "lora", "metric"]) == {0, 1}


def left(study):
    states = {"claims out": study.states()}
    rows = survey.survey(study.outline, states, PlainCosts(Data()))
    return [row for row in rows if row.status == "missing"]


def test_the_estimate_counts_what_is_left(plans):
    study = Study(plans, "C1")
    rows = left(study)
    assert len([row for row in rows if row.options.holdout]) == 4
    assert len([row for row in rows if not row.options.holdout]) == 6
    assert {row.what for row in rows} == {"run"}
    assert all(row.seconds > 0 for row in rows)
    study.run()
    assert left(study) == []


def test_data_that_cannot_be_read_is_refused_before_anything_runs(plans):
    edit(
        plans / "scales" / "mine.yaml",
        lambda scale: scale["tasks"]["words"].update(train_file="nowhere.csv"),
    )
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        Study(plans)
