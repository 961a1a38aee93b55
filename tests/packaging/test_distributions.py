"""The wheel and the sdist hold what a user needs, and the commands run without a clone.

Nothing is downloaded: the environment of the wheel sees the packages of this one, but not the
project itself. ``maintenance/check_distributions.py`` does the same with a real installation.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import hiddenkey
from hiddenkey.lab.plans import recipes

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
SECONDS = 120

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs the Git repository"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    from distributions import build

    try:
        return build(ROOT, tmp_path_factory.mktemp("built"))
    except subprocess.CalledProcessError as error:
        pytest.fail(error.output)


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """The wheel in an environment of its own, with this one's packages beside it."""
    from distributions import Environment

    folder = tmp_path_factory.mktemp("environment")
    made = Environment.make(folder, with_pip=False)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(made.python), "install", "--quiet",
         "--no-deps", "--no-index", str(built.wheel)],
        check=True,
    )  # fmt: skip
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # what a .pth file names is not searched for .pth files: the editable project stays out of sight
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(own, "shared.pth").write_text("\n".join(shared))
    return made


@pytest.fixture
def run(environment, tmp_path):
    def run(*words):
        return environment.run(words, tmp_path, SECONDS)

    return run


def below(folder):
    """Every file below a folder of the package, by its path in the wheel."""
    found = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(SRC).as_posix() for path in found}


def test_the_wheel_holds_the_package_its_recipes_and_nothing_else(built):
    from distributions import wheel_files

    files = wheel_files(built.wheel)
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    package = {name.removeprefix("src/") for name in tracked if (ROOT / name).is_file()}
    info = f"hiddenkey-{hiddenkey.__version__}.dist-info"
    of_pip = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")
    assert files == package | {f"{info}/{name}" for name in (*of_pip, "licenses/LICENSE")}


def test_the_wheel_holds_what_is_no_code(built):
    from distributions import wheel_files

    files = wheel_files(built.wheel)
    for room in ("present", "report", "claims"):
        templates = below(SRC / f"hiddenkey/lab/{room}/templates")
        assert templates
        assert files >= templates
    assert files >= below(recipes.FOLDER) | {"hiddenkey/py.typed"}
    assert not any(name.startswith(("tests/", "recipes/", "hiddenkey/tests/")) for name in files)


def test_the_sdist_builds_the_same_wheel(built):
    from distributions import sdist_files, wheel_files

    assert wheel_files(built.wheel) == wheel_files(built.wheel_of_the_tree)
    files = sdist_files(built.sdist)
    needed = {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt"}
    assert files >= needed | {f"src/{name}" for name in below(recipes.FOLDER)}
    assert not any(name.startswith("tests/") for name in files)


def test_the_project_itself_is_out_of_sight(run):
    done = run("python", "-c", "import hiddenkey; print(hiddenkey.__file__)")
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).is_relative_to(ROOT)


def test_python_m_tells_the_version(run):
    assert run("python", "-m", "hiddenkey", "--version").stdout == (
        f"hiddenkey {hiddenkey.__version__}\n"
    )


def test_every_recipe_is_listed(run):
    done = run("hiddenkey", "recipes")
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in recipes.recipes())


def test_methods_are_listed(run):
    done = run("hiddenkey", "methods")
    assert done.returncode == 0, done.stderr
    assert "hiddenkey-minus" in done.stdout


def test_a_recipe_is_planned_by_its_name(run, tmp_path):
    done = run("hiddenkey", "compare", "compare_search", "--search=false", "--methods", "lora",
               "--dry-run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 jobs of runs/compare_search" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_claims_have_their_plans_and_their_page(run, tmp_path):
    done = run("hiddenkey", "claims", "C2", "--scale", "tiny", "--page-only", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "Nearly all dropout methods beat plain LoRA" in done.stdout
    assert "<style>" in (tmp_path / "out/page/index.html").read_text(encoding="utf-8")


def test_a_report_on_nothing_is_refused(run):
    done = run("hiddenkey", "report", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("hiddenkey report: error: ")
    assert "Traceback" not in done.stderr


def test_a_missing_extra_names_the_wheel(run, built):
    words = "from hiddenkey.installation import install_command; print(install_command('hub'))"
    shown = run("python", "-c", words).stdout
    assert shown == f"pip install 'hiddenkey[hub] @ {built.wheel.as_uri()}'\n"
