import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import TASKS, Source
from hiddenkey.lab.tasks.generation import meaning_as_prompt

E2E = """mr,ref
"name[Aromi], area[riverside]",Aromi is by the river.
"name[Zizzi]",Zizzi.
"name[Aromi], area[riverside]","Go to Aromi, by the river."
"""


def entry(category, number, texts):
    lex = "".join(f'<lex comment="{comment}">{text}</lex>' for text, comment in texts)
    return (
        f'<entry category="{category}" eid="Id{number}" size="1"><modifiedtripleset>'
        f"<mtriple>A | b | C{number}</mtriple></modifiedtripleset>{lex}</entry>"
    )


def write_webnlg(folder, part, *entries):
    (folder / "webnlg_2017" / part).mkdir(parents=True)
    path = folder / "webnlg_2017" / part / "a.xml"
    path.write_text(f"<benchmark><entries>{''.join(entries)}</entries></benchmark>")


def test_e2e_trains_on_texts_and_is_judged_by_meaning(tmp_path):
    (tmp_path / "e2e").mkdir()
    for name in ("trainset.csv", "devset.csv"):
        (tmp_path / "e2e" / name).write_text(E2E)
    splits = TASKS["e2e"].load(Source(data=str(tmp_path)))
    assert [example.label for example in splits.train] == [
        "Aromi is by the river.",
        "Zizzi.",
        "Go to Aromi, by the river.",
    ]
    aromi, zizzi = splits.evaluation
    assert aromi.texts == ("name : Aromi | area : riverside ||",)
    assert aromi.references == ("Aromi is by the river.", "Go to Aromi, by the river.")
    assert zizzi.label == "Zizzi."


def test_values_keep_their_commas():
    meaning = "name[A], near[B, C], priceRange[£20-25]"
    assert meaning_as_prompt(meaning) == "name : A | near : B, C | priceRange : £20-25 ||"


def test_webnlg_takes_the_good_texts_and_tells_seen_from_unseen(tmp_path):
    good, bad = ("Fine.", "good"), ("Wrong.", "toFix")
    write_webnlg(tmp_path, "train", entry("City", 1, [good, bad, good]), entry("City", 2, [bad]))
    write_webnlg(tmp_path, "dev", entry("City", 1, [good]))
    write_webnlg(tmp_path, "test", entry("City", 1, [good]), entry("Artist", 2, [good, good]))
    splits = TASKS["webnlg"].load(Source(data=str(tmp_path)))
    assert [example.label for example in splits.train] == ["Fine.", "Fine."]
    assert splits.train[0].texts == ("A : b : C1 ||",)
    assert [example.group for example in splits.evaluation] == [""]
    tested = TASKS["webnlg"].load(Source(data=str(tmp_path), eval_split="test")).evaluation
    assert [(e.group, len(e.references)) for e in tested] == [("seen", 1), ("unseen", 2)]


@pytest.mark.parametrize("name", ["e2e", "webnlg"])
def test_a_folder_without_the_files_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="--data must be a folder that holds"):
        TASKS[name].load(Source(data=str(tmp_path)))


def test_faults_of_both_files_come_together(tmp_path):
    (tmp_path / "trainset.csv").write_text("mr,text\na,b\n")
    (tmp_path / "devset.csv").write_text("mr,ref\nname[a],\n")
    with pytest.raises(ConfigError) as caught:
        TASKS["e2e"].load(Source(data=str(tmp_path)))
    train, dev = caught.value.faults
    assert "trainset.csv: must have a column 'ref'" in train
    assert "devset.csv, line 2: column 'ref' must hold text" in dev


@pytest.mark.parametrize(
    ("name", "split", "train", "evaluation"),
    [
        ("e2e", "dev", 42061, 547),
        ("e2e", "test", 42061, 630),
        ("webnlg", "dev", 18025, 872),
    ],
)
def test_real_files_have_the_known_sizes(glue, name, split, train, evaluation):
    splits = TASKS[name].load(Source(data=str(glue), eval_split=split))
    assert len(splits.train) == train
    assert evaluation - 3 <= len(splits.evaluation) <= evaluation
    assert all(example.references for example in splits.evaluation)
