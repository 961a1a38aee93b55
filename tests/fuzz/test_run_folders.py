"""Damaged run folders: a resumed run is refused, or ends like an undisturbed one."""

import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crash.children import run_result
from fuzz.values import damaged, fuzzed, refusal
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.recorder import Observer
from hiddenkey.lab.run.training import train
from lab.conftest import tiny_model, write_csv  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class StopAtStep6(Observer):
    def evaluated(self, line):
        if line["step"] == 6:
            raise InterruptedError


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):  # noqa: F811
    """Options, and a finished and an interrupted run with them."""
    folder = tmp_path_factory.mktemp("runs")
    options = TrainOptions(
        model=str(tiny_model), task="file", text_columns=("text",), rank=4, max_length=16,
        train_file=str(write_csv(folder / "train.csv", 16, 1)),
        eval_file=str(write_csv(folder / "eval.csv", 9, 2)),
        batch_size=8, max_steps=6, evaluations=3, scheduler="constant", learning_rate=1e-2,
    )  # fmt: skip
    train(replace(options, output=str(folder / "finished")))
    with pytest.raises(InterruptedError):
        train(replace(options, output=str(folder / "interrupted")), observer=StopAtStep6())
    return options, folder


@st.composite
def harm(draw, folder):
    """Damage a file or two: cut, changed, emptied, gone, a folder in its place, of another run."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        path = folder / name
        how = draw(st.sampled_from(["bytes", "bytes", "empty", "gone", "folder", "other"]))
        if how == "bytes":
            path.write_bytes(draw(damaged(path.read_bytes())))
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "other":
            other = folder / draw(st.sampled_from(names))
            path.write_bytes(other.read_bytes() if other.is_file() else b"")
        else:
            path.unlink()
            if how == "folder":
                path.mkdir()


@fuzzed(12)
@given(st.data())
def test_a_damaged_folder_never_gives_another_result(folders, data):
    options, folder = folders
    with tempfile.TemporaryDirectory() as place:
        copied = Path(place) / "run"
        shutil.copytree(folder / data.draw(st.sampled_from(["finished", "interrupted"])), copied)
        data.draw(harm(copied))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                refused = refusal(train, replace(options, output=str(copied), resume=True))
            except OSError as error:  # a folder where a file belongs
                refused = error
        if refused is None:
            assert run_result(copied) == run_result(folder / "finished")
