from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import CONFIGS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, DebertaV2Config

from sparsebert.errors import InputError
from sparsebert.models import encoders
from sparsebert.models.encoders import (
    ENCODERS,
    check_encoder,
    load_classifier,
    load_tokenizer,
)
from sparsebert.training.finetuning import finetune
from sparsebert.training.runs import RunConfig


def save_encoder(folder, config) -> str:
    """A random encoder with the packaged one's tokenizer, saved as transformers saves one."""
    tokenizer = load_tokenizer("minilm")
    config = type(config).from_dict(config.to_dict() | {"vocab_size": len(tokenizer)})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def refusal(name: str) -> str:
    with pytest.raises(InputError) as refused:
        load_classifier(name, ("no", "yes"))
    assert "\n" not in str(refused.value) and name in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", [name for name in ENCODERS if not ENCODERS[name].downloads])
def test_a_packaged_encoder_gives_a_classifier_with_the_tasks_labels(name):
    model = load_classifier(name, ("bad", "middling", "good"))
    assert model.config.id2label == {0: "bad", 1: "middling", 2: "good"}
    encoded = load_tokenizer(name)(["A film.", "A film that is longer."], padding=True, return_tensors="pt")
    assert model(**encoded).logits.shape == (2, 3)


def test_the_packaged_encoder_is_what_the_list_says():
    for name in ("minilm", "tiny"):
        model, said = load_classifier(name, ("any",)), ENCODERS[name]
        assert said.weights == model.base_model.num_parameters()
        config = model.config
        sizes = (config.num_hidden_layers, config.num_attention_heads, config.hidden_size)
        assert sizes == (said.layers, said.heads, said.width)


ODD = {  # what a config.json may say, and what is said of it
    "num_hidden_layers": {
        5: "are missing",
        2: "have no place in the model, such as",
        0: "from 1 to 1,000",
        -1: "from 1 to 1,000",
        10**9: "from 1 to 1,000",
        "four": "could not be loaded",
    },
    "hidden_size": {32: "of other sizes", 10**9: "from 1 to"},
    "max_position_embeddings": {0: "from 1 to", 40: "of other sizes", 10**6: "describes"},
    "num_attention_heads": {3: "could not be loaded", 0: "from 1 to"},
    "position_embedding_type": {"relative_key": "position_embedding_type=relative_key"},
    "is_decoder": {True: "is_decoder=True"},
    "quantization_config": {'{"load_in_8bit": true}': "quantization_config"},
    "hidden_act": {"gulp": "could not be loaded"},
    "layer_norm_eps": {-1e9: "gives no finite numbers"},
    "type_vocab_size": {0: "", 3: "of other sizes"},
    "pad_token_id": {10**9: "could not be loaded"},
    "model_type": {"bart": "'bart' models cannot be used", "gulp": "could not be loaded", 3: ""},
    "vocab_size": {7: "of other sizes", 10**12: "from 1 to"},
}


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "bert"
    save_encoder(folder, CONFIGS["bert"])
    return folder


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, odd in ODD.items() for value in odd])
def test_a_config_that_is_odd_or_does_not_fit_the_weights_is_refused_in_one_sentence(
    field, value, saved_bert, tmp_path
):
    name = str(shutil.copytree(saved_bert, tmp_path / "odd"))
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    odd = json.loads(value) if str(value).startswith("{") else value
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | {field: odd}))
    assert ODD[field][value] in refusal(name)


@pytest.mark.parametrize(
    "field",
    [
        {"problem_type": "multi_label_classification"},
        {"return_dict": False},
        {"output_attentions": True, "output_hidden_states": True},
        {"chunk_size_feed_forward": 7},
        {"dtype": "bfloat16"},
        {"num_labels": 5, "id2label": {"3": "x"}},
    ],
)
def test_fields_that_only_change_how_a_model_is_called_do_no_harm(field, saved_bert, tmp_path):
    expected = load_classifier(str(saved_bert), ("no", "yes"))
    name = str(shutil.copytree(saved_bert, tmp_path / "same"))
    config = json.loads((tmp_path / "same" / "config.json").read_text())
    (tmp_path / "same" / "config.json").write_text(json.dumps(config | field))
    model = load_classifier(name, ("no", "yes"))
    encoded = load_tokenizer(name)(["A film."], return_tensors="pt")
    labels = torch.tensor([1])
    assert model(**encoded, labels=labels).loss.dtype == torch.float32
    with torch.no_grad():
        before, after = (m.base_model(**encoded).last_hidden_state for m in (expected, model))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_the_encoder_that_have_no_place_in_it_are_named(whole, tmp_path):
    name = save_encoder(tmp_path / "relative", CONFIGS["bert"])
    if not whole:
        load_classifier(name, ("a", "b")).base_model.save_pretrained(name)
    path = tmp_path / "relative" / "model.safetensors"
    weights = load_file(path)
    prefix = "bert." if whole else ""
    own = {"cls.predictions.bias": torch.zeros(3), f"{prefix}embeddings.position_ids": torch.zeros(1, 4)}
    save_file(weights | own, path, {"format": "pt"})
    load_classifier(name, ("no", "yes"))  # another head and a buffer of older versions are no part of it
    left = f"{prefix}encoder.layer.0.attention.self.distance_embedding.weight"
    save_file(
        weights | {left: torch.zeros(3, 8)}, tmp_path / "relative" / "model.safetensors", {"format": "pt"}
    )
    assert "1 have no place in the model, such as" in refusal(name) and "distance_embedding" in refusal(name)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_an_encoder_alone_gets_a_new_head_and_no_other_new_part(kind, tmp_path):
    tokenizer = load_tokenizer("minilm")
    config = type(CONFIGS[kind]).from_dict(CONFIGS[kind].to_dict() | {"vocab_size": len(tokenizer)})
    whole = AutoModelForSequenceClassification.from_config(config)
    whole.base_model.save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    model = load_classifier(str(tmp_path / kind), ("a", "b", "c"))
    assert torch.equal(model.get_input_embeddings().weight, whole.get_input_embeddings().weight)


def test_an_encoder_without_its_tokenizer_reads_no_word(tmp_path):
    name = save_encoder(tmp_path / "mute", CONFIGS["bert"])
    for path in (tmp_path / "mute").glob("*token*"):
        path.unlink()
    with pytest.raises(InputError, match=r"has no vocabulary.*tokenizer\.json"):
        load_tokenizer(name)


def test_an_encoder_whose_files_are_broken_or_do_not_belong_together_is_refused(tmp_path):
    name, parts = save_encoder(tmp_path / "whole", CONFIGS["bert"]), load_tokenizer("minilm")

    def broken(kind: str, change: Callable[[Path], None]) -> str:
        shutil.copytree(name, tmp_path / kind)
        change(tmp_path / kind)
        return refusal(str(tmp_path / kind))

    def with_nan(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["bert.encoder.layer.0.output.dense.bias"][0] = math.nan
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def with_more_words(folder: Path) -> None:
        parts.add_tokens(["sparsebert"])
        parts.save_pretrained(folder)

    def without_padding(folder: Path) -> None:
        parts.pad_token = None
        parts.save_pretrained(folder)

    def with_text_for_a_size(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))

    assert "not all of its weights are finite numbers (bert.encoder.layer.0" in broken("nan", with_nan)
    assert f"has {len(parts) + 1:,} tokens and the model embeds" in broken("more", with_more_words)
    assert "has no padding token" in broken("unpadded", without_padding)
    assert "could not be loaded" in broken("wide", with_text_for_a_size)
    empty = broken("empty", lambda folder: (folder / "tokenizer.json").write_text("{}"))
    assert "could not be loaded" in empty


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "extra.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_a_folder_where_a_pipe_a_folder_or_a_loop_has_a_files_name_is_refused(
    make, name, saved_bert, tmp_path
):
    folder = shutil.copytree(saved_bert, tmp_path / "odd")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert f"'{folder / name}' is no file" in refusal(str(folder))
    with pytest.raises(InputError, match="is no file"):
        encoders.folder_hash(str(folder))


def test_the_head_follows_the_seed_and_the_encoder_does_not():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(load_classifier("minilm", ("no", "yes")))
    first, same, other = (model.classifier.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
    first, _, other = (model.get_input_embeddings().weight for model in models)
    assert torch.equal(first, other)


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - {"bert"}))
def test_a_run_takes_a_local_folder_of_each_architecture(kind, small, workspace):
    folder = save_encoder(workspace / kind, CONFIGS[kind])
    config = RunConfig(**small | {"encoder": folder, "plan": "neighbour(1) | global(cls) @ late"})
    record = finetune(config)
    first, second, third, fourth = record.density_per_layer
    assert first > third and second > fourth  # ModernBERT's odd layers are local by themselves
    assert 0 <= record.metrics["accuracy"] <= 1 and record.steps == 4


def test_a_folder_that_only_has_pickled_weights_is_refused(tmp_path):
    folder = save_encoder(tmp_path / "pickled", CONFIGS["bert"])
    weights = tmp_path / "pickled" / "model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_name("pytorch_model.bin"))
    assert "safetensors" in refusal(folder)


def test_a_folder_whose_model_is_code_of_its_own_is_refused_and_the_code_not_run(tmp_path):
    folder = save_encoder(tmp_path / "code", CONFIGS["bert"])
    path = tmp_path / "code" / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "homemade.HomemadeConfig"}}
    path.write_text(json.dumps(config))
    marker = tmp_path / "was run"
    (tmp_path / "code" / "homemade.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass HomemadeConfig: pass\n"
    )
    refusal(folder)
    assert not marker.exists()


def test_an_architecture_that_cannot_be_sparsified_is_refused_by_name(tmp_path):
    config = DebertaV2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    sentence = refusal(save_encoder(tmp_path / "deberta", config))
    assert "'deberta-v2' models cannot be used, since their scores" in sentence and "roberta" in sentence


def test_an_empty_folder_is_refused_with_what_belongs_into_it(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal(str(tmp_path / "empty"))


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_that_does_not_answer_is_not_asked_for_an_encoder(reachable, monkeypatch):
    asked = {}

    def not_there(pretrained_model_name_or_path: str, local_files_only: bool, **_: object) -> None:
        asked[pretrained_model_name_or_path] = local_files_only
        raise OSError("it is not there")

    monkeypatch.setattr(encoders, "hub_reachable", lambda: reachable)
    monkeypatch.setattr(encoders.AutoConfig, "from_pretrained", not_there)
    assert "(it is not there); give a packaged encoder" in refusal("some/encoder")
    assert asked == {"some/encoder": not reachable}


@pytest.mark.parametrize("name", ["bert-base-uncased", "google/electra-small-discriminator", *ENCODERS])
def test_names_that_can_be_encoders_pass_the_check(name):
    assert check_encoder(name) == name


@pytest.mark.parametrize("name", ["", "two words", "a/b/c", "/no/such/folder", "../no_such"])
def test_names_that_cannot_be_encoders_do_not(name):
    with pytest.raises(InputError, match="encoder"):
        check_encoder(name)
