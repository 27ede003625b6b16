from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import CONFIGS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, MPNetConfig

from sparsebert.errors import InputError
from sparsebert.models import encoders
from sparsebert.models.encoders import (
    ENCODERS,
    check_encoder,
    load_classifier,
    load_tokenizer,
    packaged_minilm,
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


@pytest.mark.parametrize("name", ENCODERS)
def test_a_packaged_encoder_gives_a_classifier_with_the_tasks_labels(name):
    model = load_classifier(name, ("bad", "middling", "good"))
    assert model.config.id2label == {0: "bad", 1: "middling", 2: "good"}
    encoded = load_tokenizer(name)(["A film.", "A film that is longer."], padding=True, return_tensors="pt")
    assert model(**encoded).logits.shape == (2, 3)


def test_the_packaged_encoder_is_what_the_list_says():
    model = load_classifier("minilm", ("any",))
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (6, 12)
    assert f"{model.base_model.num_parameters() / 1e6:.1f} million" in ENCODERS["minilm"]
    saved = (packaged_minilm() / "config.json").read_text()
    assert json.loads(saved)["hidden_size"] == model.config.hidden_size


@pytest.mark.parametrize(("field", "value"), [("num_hidden_layers", 5), ("hidden_size", 32)])
def test_weights_that_do_not_fit_the_config_are_no_encoder(field, value, tmp_path):
    name = save_encoder(tmp_path / "mixed", CONFIGS["bert"])
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config | {field: value}))
    assert "its weights don't fit its config.json" in refusal(name)


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

    assert "not all of its weights are numbers (bert.encoder.layer.0" in broken("nan", with_nan)
    assert f"has {len(parts) + 1:,} tokens and the model embeds" in broken("more", with_more_words)
    assert "has no padding token" in broken("unpadded", without_padding)
    assert "could not be loaded" in broken("wide", with_text_for_a_size)
    empty = broken("empty", lambda folder: (folder / "tokenizer.json").write_text("{}"))
    assert "could not be loaded" in empty


def test_the_head_follows_the_seed_and_the_encoder_does_not():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(load_classifier("minilm", ("no", "yes")))
    first, same, other = (model.classifier.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)
    first, _, other = (model.get_input_embeddings().weight for model in models)
    assert torch.equal(first, other)


@pytest.mark.parametrize("kind", ["albert", "distilbert", "electra", "modernbert", "roberta"])
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
    config = MPNetConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    folder = save_encoder(tmp_path / "mpnet", config)
    sentence = refusal(folder)
    assert "'mpnet'" in sentence and "roberta" in sentence


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
