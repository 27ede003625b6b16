"""Patterns that the text decides: similar words, equal words, the parse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from sparsebert.patterns.batches import Batch
from sparsebert.patterns.pattern import Family, Pattern, Relation
from sparsebert.patterns.random import lowest
from sparsebert.registry import register


@register
@dataclass(frozen=True)
class Syntax(Pattern):
    """Pieces of one word, and words at most `hops` steps apart in the dependency parse.

    One step leads from a word to its head or to a dependant. Steps lead over words of the sequence: a word
    that truncation cut away connects nothing. Special tokens have no parse and attend to themselves alone.
    Chapter 03 explains it.
    """

    hops: int = 1
    name = "syntax"
    examples = ("syntax", "syntax(hops=2)")
    forms = "syntax or syntax(hops=n)"
    family = Family("syntax", "#029e73", "D")
    reads = frozenset({"word_ids", "head_ids"})

    def related(self, batch: Batch) -> Relation:
        word, head = batch.word_ids, batch.head_ids
        has_word = (word[:, :, None] >= 0) & (word[:, None, :] >= 0)
        same_word = (word[:, :, None] == word[:, None, :]) & has_word
        to_head = (head[:, :, None] == word[:, None, :]) & has_word
        step = same_word | to_head | to_head.transpose(1, 2)
        reached = step if self.hops else same_word
        for _ in range(min(self.hops, word.shape[1]) - 1):  # no path over more words than there are
            with torch.autocast(word.device.type, enabled=False):
                reached = reached.float() @ step.float() > 0
        return reached[:, None]


@register
@dataclass(frozen=True)
class Lexical(Pattern):
    """The `k` tokens with the most similar input embeddings (by cosine; ties go to the earlier one).

    Chapter 03 explains it.
    """

    k: int
    name = "lexical"
    examples = ("lexical(5)",)
    family = Family("lexical", "#d55e00", "^")
    reads = frozenset({"embeddings"})

    def related(self, batch: Batch) -> Relation:
        with torch.autocast(batch.real.device.type, enabled=False):
            unit = normalize(batch.embeddings.float(), dim=-1)
            cosine = unit @ unit.transpose(1, 2)
        # Equal words must tie exactly, whatever order a matrix product adds in: compare cosines to 4 digits.
        dissimilarity = (-1e4 * cosine).round()[:, None]
        return lowest(dissimilarity, self.k, batch.pairs & ~batch.itself)


@register
@dataclass(frozen=True)
class Copies(Pattern):
    """The same token at other places: every key whose input embedding equals the query's.

    Chapter 08 explains it.
    """

    name = "copies"
    examples = ("copies",)
    family = Family("copies", kind="other")
    reads = frozenset({"embeddings"})

    def related(self, batch: Batch) -> Relation:
        _, token = batch.embeddings.flatten(0, 1).unique(dim=0, return_inverse=True)
        token = token.view(batch.real.shape)
        return (token[:, :, None] == token[:, None, :])[:, None]
