import json

import hiddenkey
from hiddenkey.cli.main import main
from hiddenkey.framework.inference import RULES


def test_json_holds_every_method_and_its_configuration(capsys):
    assert main(["methods", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == list(hiddenkey.methods())
    for record in records:
        config = hiddenkey.DropoutConfig.from_dict(record["config"])
        assert config == hiddenkey.method(record["name"])
        assert record["paper"]


def test_table_shows_axes_and_papers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    for name in hiddenkey.methods():
        assert name in shown
    for word in ("attention_logits", "column", "normalised", "kl loss", "arXiv 2403.00812"):
        assert word in " ".join(shown.split())
    for name, rule in RULES.items():
        assert f"{name} {rule.summary} {rule.paper}".rstrip() in " ".join(shown.split())
