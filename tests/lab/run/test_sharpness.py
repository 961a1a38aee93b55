"""Steps by SAM: the equation, whole runs, what a step costs, and what is refused."""

import itertools
from dataclasses import replace

import pytest
import torch

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.lab.run import meaning, step_times
from hiddenkey.lab.run.building import build_model, build_trainer
from hiddenkey.lab.run.mixup import mixup
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train
from lab.run.test_training import Stop, adapter, assert_same_weights, lines

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RHO = 0.3


@pytest.fixture
def options(tiny_options):
    return replace(tiny_options, method="lora", sam_rho=RHO)


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "hiddenkey-minus", "rate": 0.5}, {"mixup_alpha": 1.0}],
    ids=["plain", "dropout", "mixup"],
)
def test_a_step_is_that_of_the_equation(options, changes, tmp_path):
    """Both gradients are of one loss: the second is taken with the noise of the first."""
    options = replace(options, **changes)
    prepared = prepare(options)
    model, tokenizer = build_model(options, prepared)
    hiddenkey.attach(model.double(), prepared.config)  # which takes the model's own dropout off
    trainer = build_trainer(options, prepared, model, tokenizer, tmp_path)
    trainer.create_optimizer_and_scheduler(10)
    trainer.current_gradient_accumulation_steps = 1
    trained = [each for each in model.parameters() if each.requires_grad]
    reference = [each.detach().clone().requires_grad_() for each in trained]
    adamw = torch.optim.AdamW(reference, lr=1.0, weight_decay=0.0)
    with mixup(options, model, prepared.task.kind):
        for batch in itertools.islice(trainer.get_train_dataloader(), 3):
            assert_a_step(model, batch, trainer, reference, adamw)


def assert_a_step(model, batch, trainer, reference, adamw):
    """Take one, and take it on the reference's weights by the equation's two gradients."""
    weights = [each for each in model.parameters() if each.requires_grad]
    state = torch.get_rng_state()
    at_w = gradients(model, batch)
    length = torch.stack([each.square().sum() for each in at_w]).sum().sqrt()
    with torch.no_grad():
        for weight, gradient in zip(weights, at_w, strict=True):
            weight += RHO * gradient / length
    torch.set_rng_state(state)
    uphill = gradients(model, batch)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    with torch.no_grad():
        for weight, own in zip(weights, reference, strict=True):
            weight.copy_(own)
    trainer.training_step(model, batch)
    assert torch.equal(torch.get_rng_state(), after)
    for weight, gradient in zip(weights, uphill, strict=True):
        # the norm of the gradient is taken in float32
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-5, atol=1e-9)
    for own, weight in zip(reference, weights, strict=True):
        own.grad = weight.grad.clone()
    adamw.param_groups[0]["lr"] = trainer.optimizer.param_groups[0]["lr"] = 0.01
    trainer.optimizer.param_groups[1]["lr"] = 0.01
    adamw.step()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    for own, weight in zip(reference, weights, strict=True):
        torch.testing.assert_close(weight, own, rtol=1e-9, atol=1e-12)


def gradients(model, batch):
    """Of a batch's loss at the weights as they are."""
    weights = [each for each in model.parameters() if each.requires_grad]
    return torch.autograd.grad(model.train()(**batch).loss, weights)


def test_a_run_goes_on_exactly(options, tmp_path):
    train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(5)])
    train(replace(options, resume=True))
    assert_same_weights(adapter(tmp_path / "whole"), adapter(options.output), rtol=0, atol=0)
    plain = replace(options, sam_rho=0.0, output=str(tmp_path / "plain"))
    train(plain)
    assert lines(options.output)[-1]["eval_loss"] != lines(plain.output)[-1]["eval_loss"]


def test_noise_falls_in_both_passes(options):
    train(replace(options, method="hiddenkey-minus", rate=0.5))
    for share in lines(options.output)[-1]["dropped"].values():
        assert share == pytest.approx(0.5, abs=0.06)


def test_a_step_is_timed_as_the_two_that_it_is(options, monkeypatch):
    backward, passes = torch.Tensor.backward, []

    def counted(*args, **kwargs):
        passes.append(1)
        return backward(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: float(len(passes)))
    plain = replace(options, sam_rho=0.0)
    timed = step_times.times_in_turns((options, prepare(options)), (plain, prepare(plain)), 3)
    assert timed == [(2.0, 1.0)] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sam_rho": -1.0}, "sam_rho must be at least 0"),
        ({"gradient_accumulation": 2}, "gradient_accumulation must be 1 with sam_rho, .* got 2"),
        ({"method": "hiddenkey"}, "method 'hiddenkey' adds a loss that counts passes"),
        ({"method": "temporal"}, "method 'temporal' adds a loss that counts passes"),
    ],
    ids=str,
)
def test_what_has_no_such_step_is_refused(options, changes, message):
    with pytest.raises(ConfigError, match=message):
        prepare(replace(options, **changes))


def test_the_missing_package_is_named(options, monkeypatch):
    monkeypatch.setattr(meaning, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"sam_rho=0.3 needs package 'pytorch_optimizer', .*\[sam\]"
    ):
        prepare(options)
