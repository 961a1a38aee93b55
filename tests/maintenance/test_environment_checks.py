"""The checks of an environment pass here, and each can fail."""

import pytest
import torch
from torch.nn import functional as F

import environment_checks as environment
import hiddenkey

PLAIN = hiddenkey.method("lora")


@pytest.mark.parametrize("subject", environment.SUBJECTS)
@pytest.mark.parametrize("check", environment.CHECKS)
@pytest.mark.filterwarnings("ignore")  # of the libraries, which the checks are not about
def test_every_check_passes(check, subject):
    environment.CHECKS[check](subject)


def test_the_public_names_load():
    environment.check_import()


@pytest.mark.parametrize(
    ("check", "reason"),
    [("attach", "set()"), ("HiddenKey step", "'task'"), ("padding", "0, 0, 0"), ("Trainer", "")],
)
def test_a_check_fails_where_no_noise_acts(check, reason, monkeypatch):
    attach = hiddenkey.attach
    quiet = hiddenkey.DropoutConfig((hiddenkey.Drop("hidden", "element", 0.0),))
    monkeypatch.setattr(
        hiddenkey, "attach", lambda m, _: attach(m, PLAIN if check == "attach" else quiet)
    )
    fault = environment._fault(environment.CHECKS[check], "bert")
    assert fault is not None
    assert reason in fault


def test_a_check_fails_where_evaluation_is_noisy(monkeypatch):
    attach = hiddenkey.attach

    def noisy(model, config):
        hook = lambda module, args, output: F.dropout(output, 0.3)  # noqa: E731
        model.get_base_model().bert.encoder.layer[0].output.dense.register_forward_hook(hook)
        return attach(model, config)

    monkeypatch.setattr(hiddenkey, "attach", noisy)
    fault = environment._fault(environment.check_evaluation, "bert")
    assert fault == "AssertionError: outputs differ (check_evaluation)"
    assert environment._fault(environment.check_detach, "bert").startswith("AssertionError")


def test_a_failure_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(environment, "SUBJECTS", {"bert": environment.SUBJECTS["bert"]})
    monkeypatch.setattr(environment, "CHECKS", {"attach": lambda name: torch.zeros(2) @ 1})
    monkeypatch.setattr("sys.argv", ["environment"])
    assert environment.main() == 1
    versions, imported, attached = capsys.readouterr().out.splitlines()
    assert versions.startswith("torch ")
    assert imported.split() == ["import", "ok"]
    assert attached.startswith("attach          bert: TypeError: ")
