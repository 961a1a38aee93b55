"""Models of several tasks around one encoder, whose layers are found once."""

import dataclasses

import pytest
from torch import nn

import hiddenkey
from models import batch, plain_model, step


class SeveralTasks(nn.Module):
    """Phang's pattern: task models that share all but their heads."""

    def __init__(self, count):
        super().__init__()
        models = [plain_model("bert", seed=seed) for seed in range(count)]
        for model in models[1:]:
            model.bert = models[0].bert
        self.tasks = nn.ModuleDict({f"task{index}": each for index, each in enumerate(models)})

    def forward(self, task="task0", **inputs):
        return self.tasks[task](**inputs)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("method", ["hiddenkey-minus", "dropattention"])
def test_layers_count_once(count, method):
    model = SeveralTasks(count).train()
    attachment = hiddenkey.attach(model, method)
    alone = hiddenkey.attach(plain_model("bert"), method)
    assert [site.key for site in attachment.sites] == [site.key for site in alone.sites]
    growing = hiddenkey.RateSchedule(depth="growing")
    assert growing.rates(attachment.sites, 0, 1) == growing.rates(alone.sites, 0, 1)
    assert "2 of 2 layers" in str(attachment)
    for task in model.tasks:
        model(task, **batch()).loss.backward()
        assert min(attachment.shares().values()) > 0, task


def test_layers_of_one_s_own_choice_are_those_of_the_encoder():
    model = SeveralTasks(2).train()
    config = dataclasses.replace(hiddenkey.method("hiddencut", rate=0.5), layers=(1,))
    attachment = hiddenkey.attach(model, config)
    step(model, batch())
    assert set(attachment.shares()) == {"hidden/1"}
    with pytest.raises(hiddenkey.ConfigError, match="layers must be below 2"):
        hiddenkey.attach(model, dataclasses.replace(config, layers=(2,)))
