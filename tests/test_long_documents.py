from __future__ import annotations

import json

import pytest
import torch
from models import CONFIGS, tiny_batch, tiny_model
from test_encoders import save_encoder
from transformers import AutoModelForSequenceClassification, DebertaV2Config, pipeline

from sparsebert.data.tasks import get_task
from sparsebert.errors import InputError
from sparsebert.kernels import KERNELS
from sparsebert.models.architectures import architecture_of
from sparsebert.models.encoders import (
    extend_positions,
    fitting_length,
    load_classifier,
    load_tokenizer,
)
from sparsebert.models.sparsified import sparsify
from sparsebert.study.results import recorded
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.runs import RunConfig, RunRecord
from sparsebert.training.saving import load, read_settings

FEW = 24
WITH_A_TABLE = sorted(set(CONFIGS) - {"modernbert"})
BEHIND_PADDING = ("roberta", "xlm-roberta", "mpnet")
PLAN = "neighbour(4) | global(cls)"
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def short_model(kind: str, **config: object):
    """A random model of 24 positions; RoBERTa keeps its two rows for padding, as its checkpoints do."""
    reserved = 2 if kind in BEHIND_PADDING else 0
    config |= {"pad_token_id": 1} if reserved else {}
    return tiny_model(kind, max_position_embeddings=FEW + reserved, **config), reserved


def inputs(model, *lengths: int) -> dict[str, torch.Tensor]:
    batch = tiny_batch(lengths)
    real = batch["attention_mask"].bool()
    ids = batch["input_ids"].masked_fill(~real, model.config.pad_token_id)
    return {"input_ids": ids, "attention_mask": batch["attention_mask"]}


# ---- extended positions


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_outputs_for_texts_that_fitted_before_stay_the_same_to_the_bit(kind):
    model, _ = short_model(kind)
    fitting = inputs(model, FEW, 7)
    before = model(**fitting).logits
    assert extend_positions(model, 100) is model and architecture_of(model).positions == 100
    assert torch.equal(model(**fitting).logits, before)
    if kind in WITH_A_TABLE:  # the others compute their positions and need no extension to read on
        with pytest.raises((IndexError, RuntimeError)):
            short_model(kind)[0](**inputs(model, FEW + 1))
    for length in (FEW + 1, 100):
        assert model(**inputs(model, length, 7)).logits.isfinite().all()


@pytest.mark.parametrize("kind", WITH_A_TABLE)
@pytest.mark.parametrize("length", [FEW + 1, 2 * FEW, 3 * FEW + 5])
def test_position_embeddings_are_repeated_row_by_row(kind, length):
    model, reserved = short_model(kind)
    table = model.base_model.embeddings.position_embeddings
    before = table.weight.detach().clone()
    extend_positions(model, length)
    assert model.base_model.embeddings.position_embeddings is table
    assert torch.equal(table.weight[:reserved], before[:reserved])
    for position in range(length):
        assert torch.equal(table.weight[reserved + position], before[reserved + position % FEW])
    assert table.weight.shape == (length + reserved, before.shape[1])
    assert table.num_embeddings == model.config.max_position_embeddings == length + reserved


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_an_extended_model_is_saved_and_loaded_as_it_is(kind, tmp_path):
    model, _ = short_model(kind)
    extend_positions(model, 70).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    long = inputs(model, 70, 30)
    assert architecture_of(again).positions == 70
    assert torch.equal(again(**long).logits, model(**long).logits)


@pytest.mark.parametrize("kind", WITH_A_TABLE)
def test_the_new_table_is_like_the_old_one(kind):
    model, reserved = short_model(kind)
    table = model.to(torch.bfloat16).base_model.embeddings.position_embeddings
    padding = table.padding_idx
    table.weight.requires_grad_(False)
    extend_positions(model, 70)
    assert table.weight.dtype == torch.bfloat16 and not table.weight.requires_grad
    assert table.padding_idx == padding == (reserved - 1 if reserved else None)
    assert not [name for name in model.state_dict() if name.endswith("_ids")]


@pytest.mark.parametrize("kind", WITH_A_TABLE)
def test_every_position_that_is_used_is_trained(kind):
    model, reserved = short_model(kind)
    extend_positions(model, 60)
    model(**inputs(model, 50), labels=torch.tensor([0])).loss.backward()
    trained = model.base_model.embeddings.position_embeddings.weight.grad.abs().sum(-1) > 0
    assert trained[reserved : reserved + 50].all() and trained.sum() == 50


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("length", [1, FEW])
def test_an_encoder_is_never_made_shorter(kind, length):
    model, _ = short_model(kind)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    extend_positions(model, length)
    assert architecture_of(model).positions == FEW
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_positions_can_be_extended_twice_and_inside_a_plan():
    once, _ = short_model("bert")
    twice, _ = short_model("bert")
    extend_positions(once, 70)
    extend_positions(extend_positions(twice, 2 * FEW), 70)
    assert torch.equal(
        once.get_parameter(name := "bert.embeddings.position_embeddings.weight"), twice.get_parameter(name)
    )
    long = inputs(once, 70)
    with sparsify(once, PLAN):
        expected = once(**long).logits
    model, _ = short_model("bert")
    with sparsify(model, PLAN):
        assert torch.equal(extend_positions(model, 70)(**long).logits, expected)


def test_an_architecture_whose_positions_are_not_known_is_refused():
    config = DebertaV2Config(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(InputError, match=r"'deberta-v2' models cannot be used, .*roberta") as said:
        extend_positions(AutoModelForSequenceClassification.from_config(config), 1024)
    assert "\n" not in str(said.value)


def test_a_classifier_is_loaded_for_a_length_with_the_same_head_and_encoder():
    models = []
    for length in (None, 100, 1300):
        torch.manual_seed(0)
        models.append(load_classifier("minilm", ("no", "yes"), length))
    assert [architecture_of(model).positions for model in models] == [512, 512, 1300]
    short, _, long = (dict(model.named_parameters()) for model in models)
    table = "bert.embeddings.position_embeddings.weight"
    assert torch.equal(long.pop(table)[512:1024], short.pop(table))
    assert all(torch.equal(weight, long[name]) for name, weight in short.items())


# ---- configs and records


def test_the_kernel_is_part_of_a_runs_name_only_where_it_was_chosen():
    for record in recorded("degrees")[:3]:
        assert record.kernels is None and record.config.name == record.name
    names = {RunConfig(kernel=kernel).name for kernel in KERNELS}
    assert len(names) == len(KERNELS) and RunConfig(kernel="auto").name == RunConfig().name


def test_a_length_up_to_32768_may_be_asked_for():
    assert RunConfig(max_length=32768).max_length == 32768
    with pytest.raises(InputError, match="max_length=32769: "):
        RunConfig.checked(max_length=32769)


def test_the_tasks_own_length_is_cut_to_the_encoders_positions_and_a_given_one_is_not():
    task, (model, _) = get_task("topics"), short_model("roberta")
    assert fitting_length(None, task.max_length, model) == FEW < task.max_length
    assert fitting_length(8, task.max_length, model) == 8
    assert fitting_length(600, task.max_length, model) == 600


# ---- fine-tuning


@pytest.fixture
def documents(workspace) -> dict[str, object]:
    """Fields of a run on 15 documents of some 300 to 1,200 tokens."""
    filler = "and then the film goes on as it did before with no end in sight"  # 15 tokens
    rows = [
        f"The story {verb} us {' '.join([filler] * (20 + 5 * number))} .,{label}"
        for number in range(12)
        for verb, label in (("bores", "bad"), ("delights", "good"))
    ]
    (workspace / "documents.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return {
        "task": f"file:{workspace / 'documents.csv'}",
        "encoder": "tiny",
        "plan": PLAN,
        "batch_size": 4,
        "max_length": 1024,
        "learning_rate": 1e-2,
        "precision": "fp32",
    }


@pytest.mark.parametrize("kernel", ["auto", "banded"])
def test_long_documents_are_trained_on_with_a_sparse_plan(documents, kernel):
    config = RunConfig(**documents, kernel=kernel)
    record = finetune(config)
    tokenizer = load_tokenizer("tiny")
    texts = get_task(config.task).load()["validation"]["text"]
    lengths = [min(len(ids), 1024) for ids in tokenizer(list(texts))["input_ids"]]
    assert 512 < max(lengths) <= 1024
    allowed = sum(
        n * 9 - 20 + 2 * (n - 5) for n in lengths
    )  # the band, its cut corners, [CLS]'s row and column
    assert record.density == pytest.approx(allowed / sum(n * n for n in lengths))
    assert set(record.kernels) <= ({"banded", "flex"} if kernel == "auto" else {kernel})
    assert RunRecord.model_validate_json(record.model_dump_json()) == record
    older = json.loads(record.model_dump_json(exclude={"kernels": True, "config": {"kernel"}}))
    if kernel == "auto":
        assert RunRecord.model_validate(older).name == RunRecord.model_validate(older).config.name
        assert RunRecord.model_validate(older).kernels is None


def test_a_kernel_that_cannot_train_the_encoder_is_refused(documents):
    with pytest.raises(InputError, match="kernel=flex can't be used here, since it has no dropout"):
        finetune(RunConfig(**documents, kernel="flex"))


def test_texts_are_cut_where_the_config_says_and_by_the_encoder_where_it_says_nothing(documents, workspace):
    folder = save_encoder(workspace / "short", type(CONFIGS["bert"])(**SMALL, max_position_embeddings=64))
    fields = documents | {"encoder": folder, "plan": "dense", "train_size": 4}
    given = finetune(RunConfig(**fields | {"max_length": 1000}), save_to=workspace / "given")
    without = finetune(RunConfig(**fields | {"max_length": None}), save_to=workspace / "without")
    assert 0.5 < given.padded_density < without.padded_density == 1  # every document fills 64 tokens
    assert [read_settings(workspace / name).max_length for name in ("given", "without")] == [1000, 64]
    sizes = [architecture_of(load(workspace / name).model).positions for name in ("given", "without")]
    assert sizes == [1000, 64]


def test_a_saved_model_reads_long_texts(documents, workspace, caplog):
    record = finetune(RunConfig(**documents, kernel="banded"), save_to=workspace / "model")
    assert read_settings(workspace / "model").max_length == 1024
    result = evaluate(workspace / "model")
    assert result["metrics"] == pytest.approx(record.metrics)
    assert result["density"] == pytest.approx(record.density)

    sparse = load(workspace / "model", kernel="banded")
    tokenizer = load_tokenizer(str(workspace / "model"))
    assert tokenizer.model_max_length == architecture_of(sparse.model).positions == 1024
    classify = pipeline("text-classification", model=sparse.model, tokenizer=tokenizer, truncation=True)
    fitting, longer = "a film " * 500, "a film " * 2000
    encoded = tokenizer([fitting, longer], truncation=True, padding=True, return_tensors="pt")
    assert encoded["attention_mask"].sum(-1).tolist() == [1002, 1024]
    with torch.no_grad():
        expected = sparse.model(**encoded).logits.softmax(-1).max(-1).values
    assert [found["score"] for found in classify([fitting, longer])] == pytest.approx(expected.tolist())
    assert set(sparse.kernels) == {"banded"}
    assert "longer than the specified maximum" not in caplog.text
