"""One training run: transformers' Trainer, an adapter of PEFT and the attached dropout.

Two runs with the same seed and different methods start from the same weights and see the same
batches in the same order: the seed is set just before the model is built, and Trainer draws the
order from a generator of its own (``data_seed``), which dropout does not touch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from transformers import Trainer, TrainerCallback

import hiddenkey
from hiddenkey.errors import DivergedError
from hiddenkey.integrations.trainer import watch
from hiddenkey.lab.run import processes
from hiddenkey.lab.run.building import build_model, build_trainer
from hiddenkey.lab.run.card import Story, card
from hiddenkey.lab.run.dropout import rate_schedules
from hiddenkey.lab.run.encoding import encode
from hiddenkey.lab.run.environment import environment
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.labels import label
from hiddenkey.lab.run.leaving import CARD, save
from hiddenkey.lab.run.mixup import mixup
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared, prepare
from hiddenkey.lab.run.recorder import AlreadyTrainedError, Observer, Recorder
from hiddenkey.lab.run.result import Result, sum_up
from hiddenkey.lab.run.trackers import name_logs, own_run
from hiddenkey.lab.run.used import InferenceWeights
from hiddenkey.lab.tasks import find_task


def train(
    options: TrainOptions,
    *,
    prepared: Prepared | None = None,
    observer: Observer | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    name: str | None = None,
) -> Result:
    """Train, evaluate and store one run; return its result.

    Of several processes (:mod:`hiddenkey.lab.run.processes`) each calls this; the first one stores
    the run, and generates texts while the others return without their scores.

    Args:
        options: the settings.
        prepared: what :func:`prepare` returned for these options; ``None`` calls it.
        observer: hears when the dropout is attached and after each evaluation.
        callbacks: further Trainer callbacks.
        name: what trackers call the run; ``None`` for :func:`hiddenkey.lab.run.labels.label`.

    Raises:
        ConfigError: with every fault of settings, data and run folder, before a model is loaded.
        AttachError: if the model cannot take the dropout; nothing has been written then.
        DivergedError: if a loss is no finite number any more.
    """
    observer = observer or Observer()
    prepared = _as_begun(options, prepared or prepare(options))
    processes.join()
    folder = RunFolder(options.folder, writes=processes.is_first())
    state = folder.plan(options, prepared.data_record())
    if state == "interrupted":
        processes.refuse_other_number(folder)
    if state == "finished":
        folder.tidy()
        return _sound(Result.load(folder.path))
    processes.wait()  # the first one writes from here on what the others have just read
    model, tokenizer = build_model(options, prepared)
    with hiddenkey.attach(model, prepared.config, kernel=options.kernel) as attachment:
        checkpoint = folder.last_checkpoint() if state == "interrupted" else None
        _start(folder, options, prepared, attachment, observer, is_new=checkpoint is None)
        best_by = prepared.task.metrics[0] if options.keep == "best" else None
        recorder = Recorder(folder, options.evaluations, options.log_every, observer, best_by)
        trainer = build_trainer(options, prepared, model, tokenizer, folder.checkpoints)
        by_layer = options.rate_depth != "flat"  # else the layers' rates differ by chance alone
        name_logs(trainer, name or label(options))
        watch(trainer, attachment, *rate_schedules(options), per_layer=by_layer)
        weights = InferenceWeights(trainer, options)  # before what seals checkpoints
        for callback in (recorder, *callbacks):
            trainer.add_callback(callback)
        observer.attached(attachment)
        _tell_cut(trainer, options.max_length, observer)
        if checkpoint is not None:
            recorder.go_on_from(checkpoint)
        mixed = mixup(options, model, prepared.task.kind)
        outlived = suppress(AlreadyTrainedError)
        with outlived, folder.refused_writes(), own_run(options.report_to), mixed:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        kept, best = _kept(folder, recorder, observer)
        choice, kind = prepared.choice, prepared.task.kind
        rows = encode(choice, tokenizer, options.max_length, kind) if choice else None
        if measured := weights.settle(rows):
            recorder.add_to_last_line(measured)
        newest = folder.checkpoints / f"checkpoint-{recorder.lines[-1]['step']}"
        save_to = partial(save, options, prepared, model, tokenizer)
        used = weights.leave(folder, save_to, best, newest)
        if kind == "generation" and processes.is_first():
            from hiddenkey.lab.run.generation import generate_and_score

            found = generate_and_score(folder, model, tokenizer, prepared, options, observer)
            recorder.add_to_last_line(found)
        told = attachment.summary()
    result = sum_up(options, prepared, recorder, trainer)
    line = next(line for line in recorder.lines if line["step"] == kept)
    versions = folder.read_environment()
    story = Story(options, prepared, result, line, told, versions, used)
    folder.write_text(f"adapter/{CARD}", card(story))
    folder.write_result(result)
    return result


def _start(
    folder: RunFolder,
    options: TrainOptions,
    prepared: Prepared,
    attachment: hiddenkey.Attachment,
    observer: Observer,
    *,
    is_new: bool,
) -> None:
    """Make a run's folder ready, when all processes have read what they go on from."""
    for said in folder.damages:
        observer.damaged(said)
    processes.wait()
    if is_new:
        folder.clear()
        folder.start(options, prepared.data_record())
    folder.write_json("environment.json", environment())
    folder.write_json("sites.json", [dataclasses.asdict(site) for site in attachment.sites])


def _tell_cut(trainer: Trainer, longest: int, observer: Observer) -> None:
    rows = trainer.train_dataset
    if count := sum(len(row["input_ids"]) >= longest for row in rows):
        observer.cut(count, len(rows), longest)


def _kept(folder: RunFolder, recorder: Recorder, observer: Observer) -> tuple[int, Path | None]:
    """The step of the evaluation to be kept, and its checkpoint where it is not the last step."""
    last, step = recorder.lines[-1]["step"], recorder.kept_step
    if step == last:
        return last, None
    folder.damages.clear()
    checkpoint = folder.weights_of(step)
    for said in folder.damages:
        observer.damaged(said)
    return last if checkpoint is None else step, checkpoint


def _sound(result: Result) -> Result:
    if result.diverged:
        raise DivergedError(f"{result.diverged}; take a smaller learning_rate and --overwrite")
    return result


def _as_begun(options: TrainOptions, prepared: Prepared) -> Prepared:
    """A run of before a task's main metric was chosen by its data keeps the one that it had."""
    begun = RunFolder(options.folder).read_data() if options.resume else {}
    if not begun or "main_metric" in begun or not prepared.splits.main_metric:
        return prepared
    splits = dataclasses.replace(prepared.splits, main_metric="")
    return dataclasses.replace(prepared, task=find_task(options.task, options), splits=splits)
