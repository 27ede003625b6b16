"""Naive definitions that the fast code is compared with: plain Python, one pair of tokens at a time."""

from __future__ import annotations

import torch

from sparsebert.patterns import (
    Dense,
    Difference,
    Global,
    Lexical,
    Neighbour,
    Pattern,
    Random,
    Syntax,
    Union,
    _shuffled,
)

Relation = list[list[bool]]


class Sentence:
    """The real tokens of one sequence of a batch."""

    def __init__(self, batch, row: int):
        keep = batch.real[row].nonzero()[:, 0].tolist()
        self.n = len(keep)
        self.words = [batch.word_ids[row, i].item() for i in keep] if batch.word_ids is not None else None
        self.heads = [batch.head_ids[row, i].item() for i in keep] if batch.head_ids is not None else None
        self.embeddings = (
            [batch.embeddings[row, i].double() for i in keep] if batch.embeddings is not None else None
        )


def related(pattern: Pattern, sentence: Sentence) -> Relation:
    """Whether each query is related to each key, by the definition of the pattern and nothing else."""
    tokens = range(sentence.n)
    match pattern:
        case Dense():
            return [[True for _ in tokens] for _ in tokens]
        case Neighbour(w):
            return [[abs(i - j) <= w for j in tokens] for i in tokens]
        case Global(count):
            first = 1 if count == "cls" else count
            return [[i < first or j < first for j in tokens] for i in tokens]
        case Syntax(hops):
            return _syntax(sentence, hops)
        case Lexical(k):
            return [_most_similar(sentence, i, k) for i in tokens]
        case Random():
            return _random(pattern, sentence)
        case Union(parts):
            relations = [related(part, sentence) for part in parts]
            return [[any(relation[i][j] for relation in relations) for j in tokens] for i in tokens]
        case Difference(left, right):
            a, b = related(left, sentence), related(right, sentence)
            return [[a[i][j] and not b[i][j] for j in tokens] for i in tokens]


def allowed(pattern: Pattern, sentence: Sentence) -> Relation:
    relation = related(pattern, sentence)
    return [[i == j or relation[i][j] for j in range(sentence.n)] for i in range(sentence.n)]


def _syntax(sentence: Sentence, hops: int) -> Relation:
    def step(i: int, j: int) -> bool:
        wi, wj, hi, hj = sentence.words[i], sentence.words[j], sentence.heads[i], sentence.heads[j]
        return wi >= 0 and wj >= 0 and (wi == wj or hi == wj or hj == wi)

    result = []
    for i in range(sentence.n):
        reached = {
            j for j in range(sentence.n) if sentence.words[i] >= 0 and sentence.words[j] == sentence.words[i]
        }
        for _ in range(hops):
            reached = {j for r in reached for j in range(sentence.n) if step(r, j)}
        result.append([j in reached for j in range(sentence.n)])
    return result


def _most_similar(sentence: Sentence, i: int, k: int) -> list[bool]:
    def cosine(j: int) -> float:
        a, b = sentence.embeddings[i], sentence.embeddings[j]
        return round((a @ b / (a.norm() * b.norm())).item(), 4)

    nearest = sorted((j for j in range(sentence.n) if j != i), key=lambda j: (-cosine(j), j))[:k]
    return [j in nearest for j in range(sentence.n)]


def _random(pattern: Random, sentence: Sentence) -> Relation:
    order = _shuffled(torch.arange(sentence.n)[None], pattern.seed)[0].tolist()
    barred = related(pattern.besides, sentence) if pattern.besides is not None else None
    wanted = allowed(pattern.like, sentence) if pattern.like is not None else None
    result = []
    for i in range(sentence.n):
        candidates = [j for j in range(sentence.n) if j != i and not (barred and barred[i][j])]
        degree = sum(wanted[i][j] for j in candidates) if wanted else pattern.k
        taken = sorted(candidates, key=lambda j: order[i][j])[:degree]
        result.append([j in taken for j in range(sentence.n)])
    return result
