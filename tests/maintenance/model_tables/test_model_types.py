import pytest

from hiddenkey.errors import ConfigError
from model_tables.model_types import all_types, choose


def test_main_task_of_each_type():
    chosen = choose((), ())
    assert len(chosen) == len(all_types())
    assert ("t5", "seq2seq") in chosen
    assert choose(["bert", "vit"], ()) == [("bert", "classification"), ("vit", "image")]


def test_all_tasks_that_were_asked_for():
    assert choose(["bert"], ["causal", "classification"]) == [
        ("bert", "causal"),
        ("bert", "classification"),
    ]
    assert {task for _, task in choose((), ["image"])} == {"image"}


@pytest.mark.parametrize(
    ("types", "tasks", "message"),
    [
        (["lama"], [], "types must be one of .*, got 'lama'; did you mean 'llama'?"),
        (["vit"], ["causal"], r"tasks must hold one that 'vit' is listed under \(image\), got"),
    ],
)
def test_what_is_not_there_is_refused(types, tasks, message):
    with pytest.raises(ConfigError, match=message):
        choose(types, tasks)
