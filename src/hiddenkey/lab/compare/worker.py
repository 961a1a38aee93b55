"""A worker: takes a waiting trial, trains, and stores the record in the trial and in the folder.

Whatever ends a worker, nothing is lost: the trial stays in the study, the run's checkpoints stay in
its folder, and the next worker that takes the trial goes on from them.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import torch
import yaml
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from hiddenkey.errors import ConfigError, DivergedError
from hiddenkey.lab.compare import probe
from hiddenkey.lab.compare.archive import (
    WORST,
    AnyRun,
    record_of,
    run_from,
    worth_of,
)
from hiddenkey.lab.compare.launched import CommandError, Launched, Limits, launch, progress
from hiddenkey.lab.compare.view import LiveView, frozen, show
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans import sampling
from hiddenkey.lab.plans.command import CommandRun, command_label
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import PATHS, Run, options_from
from hiddenkey.lab.plans.trials import SearchTrial
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.folder import WorkFolder
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.queue.live import Doing, Live
from hiddenkey.lab.run.checkpoints import DAMAGED
from hiddenkey.lab.run.environment import environment
from hiddenkey.lab.run.folder import CONFIG, DATA, RunFolder
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.training import train


class RunError(Exception):
    """A job failed by itself; its record says how."""


class Worker:
    """Does the jobs of some studies, one after the other.

    Args:
        studies: where to look for jobs, the first one first.
        folder: where to keep runs and records.
        local: this machine's values of the settings that may differ between machines, by task.
        live: folder in which to tell what this process does; ``None`` tells nobody.
    """

    def __init__(
        self,
        studies: Sequence[optuna.Study],
        folder: WorkFolder,
        local: Mapping[str, Mapping[str, Any]],
        live: Path | None = None,
    ) -> None:
        self._live = Live(live)
        self._studies = studies
        self._folder = folder
        self._local = local
        self._data = Data()
        self._held = ExitStack()
        self._work: Mapping[str, Callable[[optuna.Trial, Job], float]] = {
            "run": self._run,
            "search": self._search,
            "probe": self._probe,
        }

    def take_one(self) -> bool:
        """Do one job; ``False`` if none is waiting.

        Raises:
            ConfigError: if the folder of the comparison can no longer be written.
            StorageInternalError: if the study's database was lost.
        """
        for study in self._studies:
            if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self._take_from(study)
                return True
        return False

    def _take_from(self, study: optuna.Study) -> None:
        attempt = Attempt(self._objective)
        # The lock is held until Optuna has stored the outcome, so that nobody sees a trial that
        # seems to run without a worker.
        with self._held:
            try:
                study.optimize(attempt, n_trials=1, catch=(RunError,))
            except Exception as error:
                if error is attempt.error and not isinstance(error, UpdateFinishedTrialError):
                    raise
                lost = [
                    e for e in (error, error.__context__) if isinstance(e, StorageInternalError)
                ]
                if lost:  # Optuna could not store the trial's end
                    was_interrupted = isinstance(attempt.error, KeyboardInterrupt)
                    raise (KeyboardInterrupt() if was_interrupted else lost[0]) from None
                # Optuna's ways to say that somebody else ended the trial
                ended = isinstance(error, UpdateFinishedTrialError | ValueError | AssertionError)
                if not ended or not attempt.was_ended():
                    raise

    def _objective(self, trial: optuna.Trial) -> float:
        trials = trial.study.get_trials(deepcopy=False)
        taken = next(other for other in trials if other.number == trial.number)
        job = Job.of(taken)
        if job is None or jobs.is_second(taken, trials):
            raise optuna.TrialPruned("another trial does this job")
        try:
            self._held.enter_context(self._folder.lock(job.key))
            jobs.sign(trial, self._folder.identity, os.getpid())
            if jobs.ERROR in taken.user_attrs:  # its worker died between this and the end
                raise RunError(taken.user_attrs[jobs.ERROR])
            self._live.tell(Doing(job.name or job.kind), now=True)
            return self._work[job.kind](trial, job)
        except OSError as error:
            self._stop(trial, "the folder cannot be written")
            raise ConfigError(self._folder.fault() or str(error)) from error
        except (KeyboardInterrupt, ConfigError):
            self._stop(trial, "stopped on request")
            raise
        finally:
            self._live.clear()

    @staticmethod
    def _stop(trial: optuna.Trial, reason: str) -> None:
        with suppress(StorageInternalError, UpdateFinishedTrialError):
            trial.set_user_attr(jobs.STOPPED, reason)

    def _run(self, trial: optuna.Trial, job: Job) -> float:
        for name, value in job.params.items():
            show(trial, name, value)
        run = run_from(job.payload)
        return worth_of(run, self._train(trial, run))

    def _search(self, trial: optuna.Trial, job: Job) -> float:
        wanted = SearchTrial.from_dict(job.payload)
        trial.study.sampler = sampling.sampler(wanted.index, wanted.trials, wanted.algorithm)
        chosen = sampling.suggest(trial, wanted.space)
        values = []
        for run in (wanted.run(chosen, seed) for seed in wanted.seeds):
            values.append(worth_of(run, self._train(trial, run), wanted.by))
            if values[-1] == WORST:  # no other seed changes the mean
                break
        return mean(values)

    def _probe(self, trial: optuna.Trial, job: Job) -> float:
        ours, baseline = (
            self._here(options_from(job.payload[name])) for name in ("options", "baseline")
        )
        try:
            found = probe.ratio(
                (ours, self._data.prepare(ours)), (baseline, self._data.prepare(baseline))
            )
        except Exception as error:
            self._refuse_broken_folder()
            trial.set_user_attr(jobs.ERROR, _said(error))
            raise RunError(_said(error)) from error
        trial.set_user_attr("ratio", found)
        return -found

    def _train(self, trial: optuna.Trial, run: AnyRun) -> Result | None:
        """Train one run, or only read it if that has been done.

        Returns:
            Its result; ``None`` for a run of a search that diverged.
        """
        record = self._known(trial, run)
        if record is None:
            record = self._record(trial, run)
            record.save(self._folder.path)
            for name, value in jobs.record_attribute(record.to_dict()).items():
                trial.set_user_attr(name, value)
        if record.result is None and not record.counts_as_worst:
            trial.set_user_attr(jobs.ERROR, record.reason)
            raise RunError(record.reason)
        return record.result

    def _known(self, trial: optuna.Trial, run: AnyRun) -> Record | None:
        """The record of a run that has a value, if a worker died just after storing it."""
        found = jobs.records(frozen(trial)).get(run.id)
        record = None if found is None else Record.from_dict(found)
        has_value = record is not None and (record.result is not None or record.counts_as_worst)
        return record if has_value else None

    def _record(self, trial: optuna.Trial, run: AnyRun) -> Record:
        if isinstance(run, CommandRun):
            return self._command_record(trial, run)
        folder = RunFolder(self._folder.run(run.id))
        _forget_peaks()
        error: str | None = None
        result: Result | None = None
        try:
            self._train_in(folder, trial, run)
            result = Result.load(folder.path)  # as stored: NaN became null
            _drop_checkpoints(folder.checkpoints)
        except Exception as failure:
            self._refuse_broken_folder()
            error = "".join(traceback.format_exception(failure))
        metrics = folder.read_metrics()
        return record_of(
            run,
            self._state(trial),
            result=result,
            metrics=metrics,
            environment=environment(),
            error=error,
        )

    def _command_record(self, trial: optuna.Trial, run: CommandRun) -> Record:
        limits = Limits(torch.get_num_threads(), **self._local.get(run.options.task, {}))
        folder, name = self._folder.run(run.training), command_label(run.options.recorded())

        def look() -> None:
            self._live.tell(lambda: progress(folder, run, name))

        done: Launched | None = None
        error: str | None = None
        try:
            done = launch(folder, run, limits, look)
        except Exception as failure:
            self._refuse_broken_folder()
            known = isinstance(failure, CommandError | ConfigError | DivergedError)
            error = str(failure) if known else "".join(traceback.format_exception(failure))
        return record_of(
            run,
            self._state(trial),
            result=None if done is None else done.result,
            metrics=() if done is None else done.lines,
            environment=environment(),
            error=error,
            observed={} if done is None else done.observed,
        )

    @staticmethod
    def _state(trial: optuna.Trial) -> State:
        """Where the trial's job stands."""
        job = frozen(trial).user_attrs["job"]
        return jobs.states(trial.study.get_trials(deepcopy=False))[job]

    def _train_in(self, folder: RunFolder, trial: optuna.Trial, run: Run) -> None:
        self._folder.clear_stump(run.id)
        options = dataclasses.replace(self._here(run.options), output=str(folder.path), resume=True)
        if _data_moved(folder.path, options):
            options = dataclasses.replace(options, resume=False, overwrite=True)
        prepared = self._data.prepare(options)
        if self._data.fingerprint(options) != run.fingerprint:
            raise ConfigError(
                f"the data of task {options.task!r} must be what it was when the run was planned,"
                " got other examples; restore the files, or run the command again to plan anew"
            )
        view = LiveView(trial, prepared.task.metrics[0], self._live, run.name)
        train(options, prepared=prepared, observer=view, callbacks=[view], name=run.name)

    def _here(self, options: TrainOptions) -> TrainOptions:
        return dataclasses.replace(options, **self._local.get(options.task, {}))

    def _refuse_broken_folder(self) -> None:
        """Tell a fault of the run from one of the folder, which would fail all runs."""
        if fault := self._folder.fault():
            raise ConfigError(fault)


def _drop_checkpoints(folder: Path) -> None:
    """Free the disk of what only an unfinished run needs; trackers may keep logs beside it."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()  # if nothing else is in it


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _data_moved(folder: Path, options: TrainOptions) -> bool:
    """Whether an interrupted run read its data from another place, or no longer says from where."""
    try:
        old = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        if (folder / DATA).exists():
            dict(json.loads((folder / DATA).read_bytes()))
    except FileNotFoundError:
        return False
    except (*DAMAGED, yaml.YAMLError):
        return True
    new = options.recorded()
    return not isinstance(old, dict) or any(old.get(name) != new[name] for name in PATHS)


def _forget_peaks() -> None:
    """Let the peak memory of a run be its own, though many runs share this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux: 5 resets the peak of the resident memory
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Attempt:
    """An objective that remembers its trial and how it failed."""

    def __init__(self, objective: Callable[[optuna.Trial], float]) -> None:
        self._objective = objective
        self._trial: optuna.Trial | None = None
        self.error: BaseException | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        """Do the job of a trial."""
        self._trial = trial
        try:
            return self._objective(trial)
        except BaseException as error:
            self.error = error
            raise

    def was_ended(self) -> bool:
        """Whether the trial was ended by another worker, which took this one for dead."""
        return self._trial is not None and frozen(self._trial).state.is_finished()
