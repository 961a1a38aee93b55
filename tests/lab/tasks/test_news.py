from collections import Counter

import pytest

from hiddenkey.lab.assets import BBC_NEWS, locate
from hiddenkey.lab.tasks import TASKS, Source
from hiddenkey.lab.tasks.news import read_articles


@pytest.fixture(scope="module")
def headlines():
    return TASKS["headlines"].load(Source())


@pytest.fixture(scope="module")
def articles():
    return TASKS["articles"].load(Source())


def test_every_headline_is_kept_once(headlines):
    texts = [example.texts[0] for example in (*headlines.train, *headlines.evaluation)]
    files = [path.read_bytes() for path in locate(BBC_NEWS).glob("*/*.txt")]
    first_lines = {raw.split(b"\n")[0].strip() for raw in files}
    assert len(files) == 2225
    assert len(texts) == len(set(texts)) == len(first_lines) == 2225 - 129


def test_parts_have_fixed_sizes_and_all_topics(headlines):
    assert (len(headlines.evaluation), len(headlines.train)) == (1000, 1096)
    for part in (headlines.train, headlines.evaluation):
        assert set(Counter(example.label for example in part)) == set(range(5))


def test_articles_are_split_by_the_same_headlines(headlines, articles):
    for short, whole in (
        (headlines.train, articles.train),
        (headlines.evaluation, articles.evaluation),
    ):
        for one, other in zip(short, whole, strict=True):
            assert other.texts[0].startswith(one.texts[0])
            assert len(other.texts[0]) > len(one.texts[0])
            assert other.label == one.label


def test_label_is_the_topic_of_the_folder(headlines):
    root = locate(BBC_NEWS)
    line = (root / "sports" / "001.txt").read_text().split("\n")[0].strip()
    found = [e for e in (*headlines.train, *headlines.evaluation) if e.texts == (line,)]
    assert [headlines.label_names[example.label] for example in found] == ["sports"]


def test_order_does_not_depend_on_file_names(tmp_path):
    for topic, names in (("tech", ("a", "b")), ("sports", ("z",))):
        (tmp_path / topic).mkdir()
        for name in names:
            (tmp_path / topic / f"{name}.txt").write_text(f"headline {name}\nbody")
    before = list(read_articles(tmp_path))
    (tmp_path / "tech" / "a.txt").rename(tmp_path / "tech" / "zz.txt")
    assert list(read_articles(tmp_path)) == before


def test_latin_1_file_is_read(tmp_path):
    (tmp_path / "sports").mkdir()
    (tmp_path / "sports" / "1.txt").write_bytes("Café\n£9".encode("latin-1"))
    assert read_articles(tmp_path)["Café"].texts == ("Café\n£9",)
