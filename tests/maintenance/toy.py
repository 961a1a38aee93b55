"""A project with one dependency, whose releases are wheels in a folder."""

import subprocess
import sys
import zipfile

PYPROJECT = """
[project]
name = "toy"
version = "1"
requires-python = ">=3.11"
dependencies = ["greeting>=1.0"]

[project.optional-dependencies]
dev = []

[tool.pytest.ini_options]
addopts = "--import-mode=importlib"
testpaths = ["tests"]
"""
# pytest is found in the environment that runs these tests; everything else is in its own
MAKEFILE = """
install:
	$(PYTHON) -m venv --without-pip $(VENV)
	echo '{packages}' > "$$($(VENV)/bin/python -c '{where}')"/outer.pth
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) greeting

check:
	test -d $(VENV)
"""
PYTHON = f"PYTHON={sys.executable}"
WHERE = 'import sysconfig; print(sysconfig.get_path("purelib"))'
TEST = """
import greeting

def test_a_greeting_is_a_word():
    assert greeting.hello() == "hello"
"""
GOOD = """
def hello():
    return "hello"
"""
BROKEN = 'raise RuntimeError("no greetings any more")\n'


def wheel(folder, name, version, code, needs=""):
    """Write a wheel with one module."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {needs}" if needs else ""
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


def installed_by_make(project):
    """Return what the project's own commands install, with the fixed versions."""
    subprocess.run(
        ["make", "install", "VENV=.venv", "CONSTRAINTS=constraints.txt", PYTHON],
        cwd=project.root, check=True, capture_output=True,
    )  # fmt: skip
    ask = "import importlib.metadata as m; print(m.version('greeting'))"
    python = project.root / ".venv/bin/python"
    return subprocess.check_output([python, "-c", ask], text=True).strip()
