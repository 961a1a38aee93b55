"""BBC news by topic, from the headline alone or from the whole article.

The corpus holds 2,225 files, but 129 headlines occur twice; each headline is kept once, so that
none is in both parts. Which headlines are evaluated on is fixed by a hash of the headline: neither
a seed nor the order of files can change it.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Final

from hiddenkey.lab.assets import BBC_NEWS, locate
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task

TOPICS: Final = ("business", "entertainment", "politics", "sports", "tech")
EVALUATION_SIZE: Final = 1000


def read_articles(root: Path) -> dict[str, Example]:
    """Return the whole articles by headline, in the order of the hash of the headline."""
    articles: dict[str, Example] = {}
    for label, topic in enumerate(TOPICS):
        for path in sorted((root / topic).glob("*.txt")):
            article = _decode(path.read_bytes()).strip()
            headline = article.partition("\n")[0].strip()
            articles.setdefault(headline, Example((article,), label))
    by_hash = sorted(articles, key=lambda text: hashlib.sha256(text.encode()).digest())
    return {headline: articles[headline] for headline in by_hash}


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:  # sports/199.txt
        return raw.decode("latin-1")


def _load(whole: bool, source: Source) -> Splits:
    examples = tuple(
        article if whole else Example((headline,), article.label)
        for headline, article in read_articles(locate(BBC_NEWS)).items()
    )
    return Splits(examples[EVALUATION_SIZE:], examples[:EVALUATION_SIZE], TOPICS)


def _task(name: str, summary: str, whole: bool) -> Task:
    return Task(
        name=name,
        summary=summary,
        kind="classification",
        metrics=("accuracy", "f1_macro"),
        needs="bundled",
        load=partial(_load, whole),
    )


HEADLINES: Final = _task("headlines", "BBC news: topic of a headline, 5 classes (bundled)", False)
ARTICLES: Final = _task("articles", "BBC news: topic of an article, 5 classes (bundled)", True)
