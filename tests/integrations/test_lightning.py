"""``HiddenKeyCallback`` in Lightning: training mode, logs, ends, and models that are not found."""

import dataclasses
import warnings
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import hiddenkey
from hiddenkey import AttachError, ConfigError, Consistency, ConsistencyError, DropoutConfig
from hiddenkey.attachment.attachment import attachment_of
from integrations.trainers import collate, examples
from models import lora_model, plain_model

pytest.importorskip("lightning", reason="Lightning is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    from hiddenkey.integrations.lightning import HiddenKeyCallback, find_model

pytestmark = pytest.mark.filterwarnings("ignore")


LINEAR = hiddenkey.RateSchedule(decay="linear")


class Module(lightning.LightningModule):
    """Trains a model that ``from_pretrained`` left in evaluation mode."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.model = lora_model("bert").eval()
        self._fails_at = fails_at

    def training_step(self, batch, index):
        if self.global_step == self._fails_at:
            raise KeyError("a fault of the script's")
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        assert not self.model.training
        self.log("eval_loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=1e-2)


def fit(module, folder, callback, rows=None, checkpoint=None, **settings):
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        **{"max_steps": 3, "log_every_n_steps": 1, "callbacks": [callback], **settings},
    )  # fmt: skip
    rows = examples("classification", 16) if rows is None else rows
    train = DataLoader(rows, batch_size=4, collate_fn=collate)
    evaluation = DataLoader(examples("classification", 16), batch_size=8, collate_fn=collate)
    trainer.fit(module, train, evaluation, ckpt_path=checkpoint, weights_only=False)
    return trainer


def test_a_fit_is_logged_and_the_model_given_back(tmp_path):
    module, callback = Module(), HiddenKeyCallback("hiddenkey", rate=0.2)
    trainer = fit(module, tmp_path, callback)
    found = trainer.callback_metrics
    total = found["task_loss"] + found["consistency_loss"]
    assert total.item() == pytest.approx(found["loss"].item(), rel=1e-4)
    assert 0.1 < found["dropped/hidden"] < 0.3
    assert callback.attachment is attachment_of(module.model) is None
    assert DropoutConfig.from_pretrained(tmp_path) == hiddenkey.method("hiddenkey", rate=0.2)


def test_two_processes_end_together(tmp_path):
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=60))
    callback = HiddenKeyCallback("hiddenkey", rate=0.2)
    trainer = fit(Module(), tmp_path, callback, devices=2, strategy=strategy, max_steps=2)
    assert trainer.callback_metrics["consistency_loss"] > 0
    assert (tmp_path / "hiddenkey_config.json").exists()


def test_a_fit_that_fails_gives_the_model_back(tmp_path):
    module, callback = Module(fails_at=1), HiddenKeyCallback("hiddenkey")
    with pytest.raises(KeyError, match="a fault"):
        fit(module, tmp_path, callback)
    assert callback.attachment is attachment_of(module.model) is None


def test_a_resumed_fit_goes_on_counting_passes(tmp_path):
    config = DropoutConfig(hiddenkey.method("hiddenkey").drops, Consistency(every=2))
    callback = HiddenKeyCallback(config)
    trainer = fit(Module(), tmp_path, callback)
    trainer.save_checkpoint(tmp_path / "stored.ckpt")
    again = HiddenKeyCallback(config)
    again.load_state_dict(
        torch.load(tmp_path / "stored.ckpt", weights_only=False)["callbacks"][callback.state_key]
    )
    assert again.state_dict() == callback.state_dict() == {"passes": 3}


def test_a_resumed_fit_knows_the_earlier_predictions(tmp_path):
    """Batches come in one order, 4 an epoch: the fifth step is the first that compares."""
    module, callback = Module(), HiddenKeyCallback("temporal")
    trainer = fit(module, tmp_path, callback, max_steps=4)
    assert trainer.callback_metrics["consistency_loss"] == 0
    trainer.save_checkpoint(tmp_path / "stored.ckpt")
    stored = torch.load(tmp_path / "stored.ckpt", weights_only=False)
    again = HiddenKeyCallback("temporal")
    again.load_state_dict(stored["callbacks"][callback.state_key])
    resumed = Module()
    resumed.load_state_dict(stored["state_dict"])
    found = fit(resumed, tmp_path, again, max_steps=3).callback_metrics["consistency_loss"]
    whole = fit(Module(), tmp_path, HiddenKeyCallback("temporal"), max_steps=7)
    assert found.item() == pytest.approx(whole.callback_metrics["consistency_loss"].item())
    assert found > 0
    assert len(again.state_dict()["predictions"]["keys"]) == 16


class Augmented(Dataset):
    """Other tokens each time."""

    def __init__(self, seed: int) -> None:
        self._rows, self._draws = examples("classification", 16), torch.Generator()
        self._draws.manual_seed(seed)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        tokens = torch.randint(3, 50, (12,), generator=self._draws)
        return {**self._rows[index], "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def test_a_fit_whose_examples_never_come_again_is_told(tmp_path, caplog):
    callback = HiddenKeyCallback("temporal")
    fit(Module(), tmp_path, callback, rows=Augmented(1), max_steps=-1, max_epochs=3)
    assert caplog.text.count("recognised 0 of the 16 examples of an epoch (0.0 %)") == 1
    assert "compared nothing: of 48 examples none was seen twice" in caplog.text


def test_a_fit_that_meets_its_examples_again_is_told_nothing(tmp_path, caplog):
    fit(Module(), tmp_path, HiddenKeyCallback("temporal"), max_steps=-1, max_epochs=3)
    assert "recognised" not in caplog.text
    assert "compared nothing" not in caplog.text


def test_going_on_with_other_examples_is_refused(tmp_path):
    trainer = fit(Module(), tmp_path, HiddenKeyCallback("temporal"), max_steps=-1, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "stored.ckpt")
    path = str(tmp_path / "stored.ckpt")
    settings = {"max_steps": -1, "max_epochs": 4, "checkpoint": path}
    fit(Module(), tmp_path, HiddenKeyCallback("temporal"), **settings)
    with pytest.raises(ConsistencyError, match="the checkpoint are of other examples than those"):
        fit(Module(), tmp_path, HiddenKeyCallback("temporal"), rows=Augmented(2), **settings)


def test_a_further_fit_begins_anew(tmp_path):
    """As in a loop over folds: another model's predictions are not this one's."""
    config = dataclasses.replace(
        hiddenkey.method("temporal"), consistency=Consistency(target="history", every=2)
    )
    callback = HiddenKeyCallback(config)
    fit(Module(), tmp_path, callback)
    assert callback.state_dict()["passes"] == 3
    again = fit(Module(), tmp_path, callback)
    assert callback.state_dict()["passes"] == 3
    assert again.callback_metrics["consistency_loss"] == 0
    assert len(callback.state_dict()["predictions"]["keys"]) == 12


class Endless(IterableDataset):
    """As many examples, of a number that nobody knows."""

    def __iter__(self):
        return iter(examples("classification", 16))


@pytest.mark.parametrize(
    "limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_time": "00:00:00:01"}]
)
def test_a_schedule_over_an_unknown_number_of_steps_is_refused(tmp_path, limit):
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[HiddenKeyCallback("coto")], **limit,
    )  # fmt: skip
    module = Module()
    with pytest.raises(ConfigError, match=r"needs the number of steps .*\(max_steps\)"):
        trainer.fit(module, DataLoader(Endless(), batch_size=4, collate_fn=collate))
    assert attachment_of(module.model) is None


def test_a_warm_up_in_steps_needs_no_number_of_steps(tmp_path):
    schedule = hiddenkey.RateSchedule(warmup=2)
    callback = HiddenKeyCallback("dropkey", rate=0.3, schedules=[schedule])
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], max_epochs=1, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(Endless(), batch_size=4, collate_fn=collate))
    assert trainer.callback_metrics["rate/attention_logits"].item() == pytest.approx(0.3)


def test_a_schedule_and_single_layers(tmp_path):
    schedule = hiddenkey.RateSchedule(warmup=3)
    callback = HiddenKeyCallback("dropkey", rate=0.3, schedules=[schedule], per_layer=True)
    found = fit(Module(), tmp_path, callback).callback_metrics
    assert found["rate/attention_logits"].item() == pytest.approx(0.2)
    assert "dropped/attention_logits/1" in found


def test_a_method_brings_its_own_schedule(tmp_path):
    found = fit(Module(), tmp_path, HiddenKeyCallback("coto")).callback_metrics
    assert found["rate/update"].item() == 0  # the last step of three
    assert found["dropped/update"].item() == 0


def test_an_attached_model_is_refused(tmp_path):
    module = Module()
    hiddenkey.attach(module.model, "dropkey")
    with pytest.raises(AttachError, match="has an attachment already"):
        fit(module, tmp_path, HiddenKeyCallback("hiddenkey"))


class TwoModels(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"student": lora_model("bert"), "teacher": plain_model("bert")})
        self.head = nn.Linear(2, 2)


def test_the_model_that_is_trained_is_found():
    module = TwoModels()
    with pytest.raises(AttachError, match=r"got parts\.student, parts\.teacher; say which"):
        find_model(module)
    assert find_model(module, "parts.teacher") is module.parts["teacher"]
    module.parts["teacher"].requires_grad_(False)
    assert find_model(module) is module.parts["student"]
    with pytest.raises(AttachError, match="got 'nothing'; it has parts, head"):
        find_model(module, "nothing")


def test_a_test_of_a_checkpoint_is_no_resuming(tmp_path):
    """``test(ckpt_path=...)`` gives the callback its state back; the next fit is another one's."""
    callback, known = HiddenKeyCallback("temporal"), []

    class See(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            known.append((len(callback.attachment.history), callback.attachment.consistency_passes))

    module = Module()
    module.test_step = module.validation_step
    trainer = fit(module, tmp_path, callback, max_steps=-1, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    rows = DataLoader(examples("classification", 8), batch_size=4, collate_fn=collate)
    trainer.test(module, rows, tmp_path / "kept.ckpt", verbose=False, weights_only=False)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, max_steps=1,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback, See()],
    )  # fmt: skip
    trainer.fit(Module(), rows, rows)
    assert known == [(0, 0)]


class Manual(Module):
    """Steps as many optimisers as it is told, in every so many batches."""

    def __init__(self, optimisers: int, every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._optimisers, self._every = optimisers, every

    def training_step(self, batch, index):
        self.manual_backward(super().training_step(batch, index))
        if (index + 1) % self._every == 0:
            used = self.optimizers()
            for optimiser in used if isinstance(used, list) else [used]:
                optimiser.step()
                optimiser.zero_grad()

    def configure_optimizers(self):
        trained = [p for p in self.model.parameters() if p.requires_grad]
        n = self._optimisers
        return [torch.optim.SGD(trained[i::n], lr=1e-2) for i in range(n)], []


@pytest.mark.parametrize("length", [{"max_epochs": 2, "max_steps": -1}, {"max_epochs": -1}])
@pytest.mark.parametrize(("optimisers", "every"), [(1, 1), (2, 1), (1, 2)])
def test_manual_optimisation_has_the_schedule_of_its_batches(optimisers, every, length, tmp_path):
    """Lightning counts each optimiser's steps, and ``max_steps`` is of these."""
    callback, rates, logged = HiddenKeyCallback("hiddenkey", schedules=[LINEAR]), [], []

    class Watched(Manual):
        def training_step(self, batch, index):
            rates.append(callback.attachment.rates["hidden/0"])
            return super().training_step(batch, index)

        def log_dict(self, parts, *args, **kwargs):
            logged.append(parts)
            super().log_dict(parts, *args, **kwargs)

    module = Watched(optimisers, every)
    fit(module, tmp_path, callback, log_every_n_steps=2,
        **{"max_steps": 8 * optimisers // every, **length})  # fmt: skip
    assert len(rates) == 8
    assert rates[0] == pytest.approx(0.1)
    assert rates[3] > 0.03
    assert rates[-1] < 0.02
    assert len(logged) == 4


def test_accumulated_batches_are_logged_once_a_step(tmp_path):
    logged = []

    class Watched(Module):
        def log_dict(self, parts, *args, **kwargs):
            logged.append(self.global_step)
            super().log_dict(parts, *args, **kwargs)

    fit(Watched(), tmp_path, HiddenKeyCallback("hiddenkey"), max_steps=4, max_epochs=-1,
        accumulate_grad_batches=2, log_every_n_steps=2)  # fmt: skip
    assert logged == [2, 4]


class Two(Module):
    def __init__(self) -> None:
        super().__init__()
        self.other = lora_model("bert", seed=3)

    def training_step(self, batch, index):
        return super().training_step(batch, index) + self.other(**batch).loss


def test_two_models_have_a_callback_each(tmp_path):
    one = HiddenKeyCallback("hiddenkey", model="model")
    other = HiddenKeyCallback("hiddenkey-minus", rate=0.3, model="other")
    module = Two()
    trainer = fit(module, tmp_path, one, callbacks=[one, other])
    numbers = trainer.callback_metrics
    assert 0 < numbers["model/dropped/hidden"] < 0.2 < numbers["other/dropped/hidden"]
    assert "model/consistency_loss" in numbers
    assert "other/consistency_loss" not in numbers
    for name, callback in (("model", one), ("other", other)):
        file = tmp_path / name / "hiddenkey_config.json"
        assert DropoutConfig.from_pretrained(file.parent) == callback.config
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    states = torch.load(tmp_path / "kept.ckpt", weights_only=False)["callbacks"]
    assert [states[each.state_key]["passes"] for each in (one, other)] == [3, 0]


def test_a_trial_run_leaves_no_file(tmp_path):
    fit(Module(), tmp_path, HiddenKeyCallback("hiddenkey"), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["temporal", "hiddenkey"])
def test_a_checkpoint_that_an_exception_writes_holds_the_state(tmp_path, method):
    """Lightning's checkpoint callbacks stand last, behind the one that detaches."""
    saver = lightning.pytorch.callbacks.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(KeyError):
        fit(Module(fails_at=5), tmp_path, None, callbacks=[HiddenKeyCallback(method), saver],
            max_steps=8)  # fmt: skip
    (file,) = tmp_path.glob("*.ckpt")
    stored = torch.load(file, weights_only=False)["callbacks"]
    (state,) = (value for name, value in stored.items() if "HiddenKey" in name)
    assert state["passes"] == 5
    if method == "temporal":
        assert len(state["predictions"]["keys"]) == 16
        callback = HiddenKeyCallback(method)
        seen = []
        watch = lightning.pytorch.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_: seen.append(callback.attachment.losses["consistency"])
        )
        fit(Module(), tmp_path, None, callbacks=[callback, watch], max_steps=7, checkpoint=file)
        assert min(seen) > 0
