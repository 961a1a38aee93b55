"""A training that goes on from stored predictions, which a checkpoint holds on the CPU."""

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from models import batch, lora_model, step

TEMPORAL = DropoutConfig(consistency=Consistency(target="history", top=5))


@pytest.mark.parametrize(
    ("family", "lm_loss"), [("bert", "auto"), ("llama", "full"), ("llama", "chunked")]
)
def test_stored_predictions_are_compared_where_the_model_is(family, lm_loss, device):
    task = "causal" if family == "llama" else "classification"
    inputs = {name: each.to(device) for name, each in batch(task, "right").items()}
    found, state = [], None
    for _ in range(2):
        model = lora_model(family, task).to(device)
        attachment = hiddenkey.attach(model, TEMPORAL, lm_loss=lm_loss)
        if state is None:
            step(model, inputs)
            state = attachment.history.state_dict()
        else:
            attachment.history.load_state_dict(state)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.03
        step(model, inputs)
        found.append(attachment.losses["consistency"])
    assert all(each.device.type == "cpu" for each in state.values())
    assert found[0] > 1e-4
    assert found[1] == pytest.approx(found[0], rel=1e-5)
