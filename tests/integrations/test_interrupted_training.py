"""Trainings that an exception, Ctrl-C or a SIGTERM ends, and what goes on from them."""

import pytest
import torch
from transformers import TrainerCallback

from hiddenkey import AttachError
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.integrations.callback import HiddenKeyCallback
from integrations.trainers import assert_same_weights, logs, tiny_trainer, weights
from models import lora_model, transformer_in

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Batches(TrainerCallback):
    """Writes down what each step sees, and presses Ctrl-C inside of a pass."""

    def __init__(self, model, stop=None):
        self.seen, self.stop = {}, stop
        self._handle = transformer_in(model).register_forward_pre_hook(self._see, with_kwargs=True)
        transformer_in(model).classifier.register_forward_pre_hook(self._interrupt)
        self.step = 0

    def on_step_begin(self, args, state, control, **_):
        self.step = state.global_step

    def _see(self, module, args, kwargs):
        self.seen[self.step] = kwargs["input_ids"]

    def _interrupt(self, *_):
        if self.step == self.stop:
            self.stop = None
            raise KeyboardInterrupt


def trained(folder, stop=None, **settings):
    model = lora_model("bert")
    batches = Batches(model, stop)
    trainer = tiny_trainer(
        model,
        folder,
        callbacks=[HiddenKeyCallback("hiddenkey-minus"), batches],
        **{"max_steps": 15, "save_strategy": "steps", "save_steps": 2, **settings},
    )
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert torch.initial_seed() == trainer.args.seed
        trainer.train(resume_from_checkpoint=True)
    return trainer, batches


def test_a_training_that_is_resumed_in_the_same_process_sees_the_same_batches(tmp_path):
    """accelerate draws the order of the examples from the seed that PyTorch knows."""
    trainer, batches = trained(tmp_path / "whole")
    again, others = trained(tmp_path / "interrupted", stop=5)  # in the middle of an epoch of 12
    for step in range(4, 15):
        assert torch.equal(batches.seen[step], others.seen[step]), step
    assert_same_weights(weights(trainer.model), weights(again.model))


def evaluated(trainer):
    """Return the loss by the trainer, and that of the weights as they are saved."""
    loss = trainer.evaluate()["eval_loss"]
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    other = tiny_trainer(lora_model("bert"), trainer.args.output_dir)
    other.model.load_state_dict(state)
    return loss, other.evaluate()["eval_loss"]


@pytest.mark.parametrize("stop", [None, 4])
def test_what_is_evaluated_after_a_training_is_what_is_saved(tmp_path, stop):
    model = lora_model("bert")
    callback = HiddenKeyCallback("hiddenkey-minus", inference="ema")
    trainer = tiny_trainer(model, tmp_path, callbacks=[callback, Batches(model, stop)], max_steps=6)
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    loss, saved = evaluated(trainer)
    assert loss == pytest.approx(saved, rel=1e-6)


def test_a_cell_of_a_notebook_can_be_run_again(tmp_path):
    """It makes a new callback and a new trainer around the model that the old ones left."""
    model = lora_model("bert")
    trainer = tiny_trainer(
        model, tmp_path, callbacks=[HiddenKeyCallback("hiddenkey"), Batches(model, 1)]
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    again = tiny_trainer(model, tmp_path, callbacks=[HiddenKeyCallback("hiddenkey")])
    again.train()
    assert len(logs(again)) == 3
    assert min(log["dropped/hidden"] for log in logs(again)) > 0
    assert attachment_of(model) is None


def test_two_callbacks_of_one_trainer_are_still_refused(tmp_path):
    callbacks = [HiddenKeyCallback("hiddenkey"), HiddenKeyCallback("dropkey")]
    trainer = tiny_trainer(lora_model("bert"), tmp_path, callbacks=callbacks)
    with pytest.raises(AttachError, match="give the trainer one such callback alone"):
        trainer.train()


class Terminates(TrainerCallback):
    """Asks for the checkpoint of a SIGTERM after a step, as transformers' handler does."""

    def __init__(self, after):
        self.after, self.trainer = after, None

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.after:
            for callback in self.trainer.callback_handler.callbacks:
                if manager := getattr(callback, "jit_manager", None):
                    manager.is_checkpoint_requested = True


@pytest.mark.parametrize(
    ("method", "inference", "file"),
    [
        ("temporal", "last", "hiddenkey_history_0.safetensors"),
        ("hiddenkey", "ema", "hiddenkey_mean_ema.safetensors"),
    ],
)
def test_a_checkpoint_of_a_sigterm_goes_on_with_all_that_was_kept(
    tmp_path, method, inference, file
):
    def made(*more, **settings):
        callback = HiddenKeyCallback(method, inference=inference)
        trainer = tiny_trainer(
            lora_model("bert"), tmp_path, callbacks=[callback, *more],
            **{"max_steps": 15, "enable_jit_checkpoint": True, **settings},
        )  # fmt: skip
        return trainer, type(trainer)._save_checkpoint

    if "enable_jit_checkpoint" not in tiny_trainer(lora_model("bert"), tmp_path).args.to_dict():
        pytest.skip("transformers has no checkpoints of a SIGTERM")
    whole, _ = made()
    whole.train()
    terminates = Terminates(after=13)
    trainer, plain = made(terminates)
    terminates.trainer = trainer
    # after transformers' own callback, whose on_step_end then asks in the next step's begin
    trainer.train()
    assert trainer.state.global_step < 15
    folder = tmp_path / f"checkpoint-{13}"
    assert (folder / file).is_file()
    assert (folder / "hiddenkey_config.json").is_file()
    assert trainer._save_checkpoint.__func__ is plain
    again, _ = made()
    again.train(resume_from_checkpoint=str(folder))
    assert_same_weights(weights(whole.model), weights(again.model), rtol=1e-4, atol=1e-5)
