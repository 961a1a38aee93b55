"""The command that adds an extra, for each way in which the package can have come."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from hiddenkey import installation
from hiddenkey.installation import extra_with, install_command


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Set what pip recorded beside a package in some folder of packages."""
    monkeypatch.setattr(installation, "_PACKAGE", tmp_path / "site-packages" / "hiddenkey")

    def installed(record):
        text = None if record is None else json.dumps(record)
        found = SimpleNamespace(read_text={"direct_url.json": text}.get)
        monkeypatch.setattr(installation, "distribution", {"hiddenkey": found}.get)

    return installed


def make_clone(folder, *, constraints=False, name="hiddenkey"):
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    if constraints:
        (folder / "constraints.txt").touch()
    return folder


@pytest.mark.parametrize("editable", [False, True])
@pytest.mark.parametrize("constraints", [False, True])
def test_from_a_folder(installed, tmp_path, editable, constraints):
    folder = make_clone(tmp_path / "my clone", constraints=constraints)
    installed({"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}})
    bound = ["-c", f"{folder}/constraints.txt"] if constraints else []
    mode = ["--editable"] if editable else []
    words = ["pip", "install", *bound, *mode, f"{folder}[lab]"]
    assert shlex.split(install_command("lab")) == words


def test_from_a_file(installed):
    installed({"url": "file:///wheels/hiddenkey-1-py3-none-any.whl", "archive_info": {}})
    wanted = "hiddenkey[hub] @ file:///wheels/hiddenkey-1-py3-none-any.whl"
    assert install_command("hub") == f"pip install '{wanted}'"


@pytest.mark.parametrize(
    ("more", "part"), [({}, ""), ({"subdirectory": "python"}, "#subdirectory=python")]
)
def test_from_a_repository(installed, more, part):
    source = {"vcs": "git", "requested_revision": "main", "commit_id": "a1b2"}
    installed({"url": "https://host/hiddenkey.git", "vcs_info": source, **more})
    wanted = f"hiddenkey[lab] @ git+https://host/hiddenkey.git@a1b2{part}"
    assert install_command("lab") == f"pip install '{wanted}'"


@pytest.mark.parametrize(
    "record",
    [None, {"url": "file:///no/such/folder", "dir_info": {}}],
    ids=["from an index", "the folder is gone"],
)
def test_from_nowhere_in_particular(installed, record):
    installed(record)
    assert install_command("trl") == "pip install 'hiddenkey[trl]'"


def test_not_installed_but_run_from_its_source(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    folder = make_clone(tmp_path / "clone", constraints=True)
    monkeypatch.setattr(installation, "distribution", missing)
    monkeypatch.setattr(installation, "_PACKAGE", folder / "src" / "hiddenkey")
    assert install_command("lab") == (f"pip install -c {folder}/constraints.txt '{folder}[lab]'")


def test_the_source_that_runs_wins_over_what_is_installed(installed, tmp_path, monkeypatch):
    there, here = make_clone(tmp_path / "there"), make_clone(tmp_path / "here")
    installed({"url": there.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(installation, "_PACKAGE", here / "src" / "hiddenkey")
    assert install_command("lab") == f"pip install '{here}[lab]'"


def test_another_project_around_the_package_is_not_its_source(installed, tmp_path, monkeypatch):
    folder = make_clone(tmp_path / "other", name="other")
    installed(None)
    monkeypatch.setattr(installation, "_PACKAGE", folder / "vendored" / "hiddenkey")
    assert install_command("lab") == "pip install 'hiddenkey[lab]'"


def test_a_module_tells_its_extra():
    modules = (
        "psycopg.rows",
        "datasets",
        "gguf",
        "trl",
        "lightning",
        "pytorch_optimizer",
        "peft",
        "yaml",
    )
    extras = ["postgres", "hub", "gguf", "trl", "lightning", "sam", "lab", "lab"]
    assert [extra_with(module) for module in modules] == extras
