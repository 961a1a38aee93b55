import pytest

from java_tools import require_tools


@pytest.fixture(scope="session")
def tools():
    """Java, METEOR and the Penn Treebank tokenizer."""
    return require_tools()


@pytest.fixture
def no_tools(monkeypatch):
    """As if Java were not installed."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
