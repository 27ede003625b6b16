"""Naive definitions that the fast code is compared with: plain Python, one pair of tokens at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from hypothesis import strategies as st

from sparsebert.patterns import (
    Biased,
    Copies,
    Dense,
    Difference,
    Global,
    HardLayer,
    Lexical,
    Neighbour,
    Pattern,
    Random,
    Syntax,
    Union,
)
from sparsebert.patterns.random import _shuffled

Relation = list[list[bool]]
Weights = list[list[float]]


class Sentence:
    """The real tokens of one sequence of a batch."""

    def __init__(self, batch, row: int):
        keep = batch.real[row].nonzero()[:, 0].tolist()
        self.n = len(keep)
        self.words = [batch.word_ids[row, i].item() for i in keep] if batch.word_ids is not None else None
        self.heads = [batch.head_ids[row, i].item() for i in keep] if batch.head_ids is not None else None
        self.second = batch.second[row].item() if batch.second is not None else None
        self.embeddings = (
            [batch.embeddings[row, i].double() for i in keep] if batch.embeddings is not None else None
        )


Naive = Callable[[Pattern, Sentence], Relation]
NAIVE: dict[type[Pattern], Naive] = {}  # the definition of each pattern
DRAWN: dict[type[Pattern], st.SearchStrategy[Pattern]] = {}  # and some of them, for tests by hypothesis


def naive(kind: type[Pattern], *arguments: st.SearchStrategy) -> Callable[[Naive], Naive]:
    """Define a pattern's pairs for all generic tests, from a file `test_pattern_NAME.py`."""

    def define(related: Naive) -> Naive:
        NAIVE[kind], DRAWN[kind] = related, st.builds(kind, *arguments)
        return related

    return define


def pairs(sentence: Sentence, related: Callable[[int, int], bool]) -> Relation:
    return [[related(i, j) for j in range(sentence.n)] for i in range(sentence.n)]


@naive(Dense)
def _dense(pattern: Dense, sentence: Sentence) -> Relation:
    return pairs(sentence, lambda i, j: True)


@naive(Neighbour, st.integers(0, 9))
def _neighbour(pattern: Neighbour, sentence: Sentence) -> Relation:
    return pairs(sentence, lambda i, j: abs(i - j) <= pattern.w)


@naive(Global, st.one_of(st.just("cls"), st.integers(0, 3)))
def _global(pattern: Global, sentence: Sentence) -> Relation:
    first = 1 if pattern.tokens == "cls" else pattern.tokens
    return pairs(sentence, lambda i, j: i < first or j < first)


@naive(Lexical, st.integers(0, 6))
def _lexical(pattern: Lexical, sentence: Sentence) -> Relation:
    return [_most_similar(sentence, i, pattern.k) for i in range(sentence.n)]


@naive(Copies)
def _copies(pattern: Copies, sentence: Sentence) -> Relation:
    places = sentence.embeddings
    return pairs(sentence, lambda i, j: bool((places[i] == places[j]).all()))


@naive(Random, st.integers(0, 9), st.integers(0, 5))
def _random_keys(pattern: Random, sentence: Sentence) -> Relation:
    return _random(pattern, sentence, 0)


def related(pattern: Pattern, sentence: Sentence, head: int = 0) -> Relation:
    """Whether each query is related to each key, by the definition of the pattern and nothing else."""
    tokens = range(sentence.n)
    match pattern:
        case Random():
            return _random(pattern, sentence, head)
        case HardLayer(degrees, layer):
            shares = degrees.kept[layer]
            own = [quantile(i, layer * len(shares) + head) for i in tokens]
            return [
                [i == j or own[i] < at_distance(shares[head], abs(i - j), degrees) for j in tokens]
                for i in tokens
            ]
        case Biased(inside):
            return related(inside, sentence, head)
        case Union(parts):
            relations = [related(part, sentence, head) for part in parts]
            return [[any(relation[i][j] for relation in relations) for j in tokens] for i in tokens]
        case Difference(left, right):
            a, b = related(left, sentence, head), related(right, sentence, head)
            return [[a[i][j] and not b[i][j] for j in tokens] for i in tokens]
    return NAIVE[type(pattern)](pattern, sentence)


def allowed(pattern: Pattern, sentence: Sentence, head: int = 0) -> Relation:
    relation = related(pattern, sentence, head)
    return [[i == j or relation[i][j] for j in range(sentence.n)] for i in range(sentence.n)]


def weights(pattern: Pattern, sentence: Sentence, head: int = 0) -> Weights | None:
    """What is added to the score of each pair; None if the pattern gives its pairs no weights."""
    tokens = range(sentence.n)
    match pattern:
        case HardLayer(degrees, layer) if degrees.weights:
            row = degrees.weights[layer][head]
            return [[at_distance(row, abs(i - j), degrees) for j in tokens] for i in tokens]
        case Biased(_, source):
            return weights(source, sentence, head)
        case Difference(left):
            return weights(left, sentence, head)
        case Union(parts):
            added = [(related(part, sentence, head), weights(part, sentence, head)) for part in parts]
            if all(table is None for _, table in added):
                return None
            result = []
            for i in tokens:
                for j in tokens:
                    tables = [table for relation, table in added if relation[i][j]]
                    free = None in tables
                    result.append(0.0 if free else sum((table[i][j] for table in tables), 0.0))
            return [result[i * sentence.n : (i + 1) * sentence.n] for i in tokens]
    return None


def at_distance(row: list[float], distance: int, degrees) -> float:
    """What a head's list says of a distance: nothing of 0, and its last item for all that are larger."""
    place = distance - 1
    if degrees.open_ended:
        place = min(place, degrees.max_distance)
    return row[place] if 0 <= place < len(row) else 0.0


def quantile(token: int, head: int) -> float:
    """The golden-ratio sequence, started elsewhere for each head of the encoder, counted over all layers."""
    return (token * (math.sqrt(5) - 1) / 2 + head * math.sqrt(2) % 1) % 1


@naive(Syntax, st.integers(0, 3))
def _syntax(pattern: Syntax, sentence: Sentence) -> Relation:
    def step(i: int, j: int) -> bool:
        wi, wj, hi, hj = sentence.words[i], sentence.words[j], sentence.heads[i], sentence.heads[j]
        return wi >= 0 and wj >= 0 and (wi == wj or hi == wj or hj == wi)

    result = []
    for i in range(sentence.n):
        reached = {
            j for j in range(sentence.n) if sentence.words[i] >= 0 and sentence.words[j] == sentence.words[i]
        }
        for _ in range(pattern.hops):
            reached = {j for r in reached for j in range(sentence.n) if step(r, j)}
        result.append([j in reached for j in range(sentence.n)])
    return result


def _most_similar(sentence: Sentence, i: int, k: int) -> list[bool]:
    def cosine(j: int) -> float:
        a, b = sentence.embeddings[i], sentence.embeddings[j]
        return round((a @ b / (a.norm() * b.norm())).item(), 4)

    nearest = sorted((j for j in range(sentence.n) if j != i), key=lambda j: (-cosine(j), j))[:k]
    return [j in nearest for j in range(sentence.n)]


def _random(pattern: Random, sentence: Sentence, head: int) -> Relation:
    order = _shuffled(torch.arange(sentence.n)[None], pattern.seed)[0].tolist()
    barred = related(pattern.besides, sentence, head) if pattern.besides is not None else None
    wanted = allowed(pattern.like, sentence, head) if pattern.like is not None else None
    result = []
    for i in range(sentence.n):
        candidates = [j for j in range(sentence.n) if j != i and not (barred and barred[i][j])]
        degree = sum(wanted[i][j] for j in candidates) if wanted else pattern.k
        taken = sorted(candidates, key=lambda j: order[i][j])[:degree]
        result.append([j in taken for j in range(sentence.n)])
    return result


for file in Path(__file__).parent.glob("test_pattern_*.py"):  # the patterns that have a test of their own
    import_module(file.stem)
