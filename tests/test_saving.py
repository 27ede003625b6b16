from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner
from models import CONFIGS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_cli import call, options, refusal
from test_encoders import save_encoder
from transformers import AutoModelForSequenceClassification, pipeline

from sparsebert.cli import main
from sparsebert.data import tokenizing
from sparsebert.degrees import DegreeConfig
from sparsebert.errors import InputError
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.models.sparsified import sparsify
from sparsebert.patterns.hard_degrees import HardDegrees, load_degrees
from sparsebert.sweeps.running import find_or_train
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.runs import RunConfig, RunRecord, RunStore
from sparsebert.training.saving import load, read_settings, save

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
LEARNED = {"target_density": 0.4, "max_distance": 6, "rate": 0.5, "weight_rate": 1.0}


@pytest.fixture
def scored(small, workspace):
    """Fields of a run of 8 steps whose metrics show every small difference."""
    return small | {"task": f"file:{workspace / 'scores.csv'}", "epochs": 2}


TEXTS = ["The old film bores us.", "This plot delights critics who wait with great care.", "Every scene."]


def encoded() -> dict[str, torch.Tensor]:
    return load_tokenizer("tiny")(TEXTS, padding=True, return_tensors="pt")


def said(call_it) -> str:
    with pytest.raises(InputError) as refused:
        call_it()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- what is saved is what was trained


@pytest.mark.parametrize(
    ("plan", "degrees", "saved"),
    [
        ("learned | global(cls)", LEARNED, 'learned("degrees.json") | global(cls)'),
        (
            "learned | neighbour(1) @ 1",
            LEARNED | {"harden": "irregular", "weights": False},
            'learned("degrees.json") | neighbour(1) @ 1',
        ),
        ("weighted(neighbour(2))", {"weight_rate": 1.0}, 'weighted(neighbour(2), "degrees.json")'),
        ("neighbour(1) @ late", None, "neighbour(1) @ late"),
        (
            'weighted(learned("given.json")) @ 0; learned("given.json") | random(1) @ 1',
            {"weight_rate": 1.0},
            'weighted(learned("degrees-2.json"), "degrees.json") @ 0; '
            'learned("degrees-2.json") | random(1) @ 1',
        ),
    ],
)
def test_a_saved_model_gives_the_results_of_its_record(scored, workspace, monkeypatch, plan, degrees, saved):
    trained = []

    def logits_and_save(model, plan, *args):
        with sparsify(model.eval(), plan, getattr(model, "sparsebert_degrees", None)):
            trained.append(model(**encoded()).logits)
        return save(model, plan, *args)

    monkeypatch.setattr(sys.modules["sparsebert.training.finetuning"], "save", logits_and_save)
    layer = [[1, 0.5], [0.3]]
    HardDegrees(max_distance=2, kept=[layer, layer], weights=[[[0.5, -1], [1]]] * 2).save("given.json")
    config = RunConfig(**scored | {"plan": plan, "degrees": degrees})
    record = finetune(config, save_to=workspace / "model")
    (workspace / "given.json").unlink()
    loaded = load(workspace / "model").model(**encoded()).logits
    torch.testing.assert_close(loaded, trained[0], rtol=0, atol=2e-6)  # degrees are saved to 6 digits
    result = evaluate(workspace / "model")
    # a rank correlation would jump where two scores are as close as the rounding of the degrees
    assert result["metrics"]["pearson"] == pytest.approx(record.metrics["pearson"], abs=1e-4)
    assert result["density_per_layer"] == pytest.approx(record.density_per_layer, rel=1e-9)
    assert result["density"] == pytest.approx(record.density)
    assert (result["task"], result["eval_rows"]) == (config.task, record.eval_rows)
    assert read_settings(workspace / "model").plan == saved
    if record.learning:
        assert load_degrees(str(workspace / "model" / "degrees.json")) == record.learning.degrees


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a saved model of learned degrees, and the record of its run."""
    folder = tmp_path_factory.mktemp("kept")
    words = {"bores": "bad", "annoys": "bad", "pleases": "good", "delights": "good"}
    lines = [
        f"{subject} {verb} {who},{label}"
        for subject in ("The old film", "A quiet actor", "Every scene of this story", "It")
        for verb, label in words.items()
        for who in ("us.", "critics who wait.", "the whole audience with great care.")
    ]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    config = RunConfig(
        task=f"file:{folder / 'data.csv'}",
        encoder="tiny",
        plan="learned",
        degrees=LEARNED,
        epochs=4,
        batch_size=8,
        max_length=32,
        learning_rate=1e-2,
        precision="fp32",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPARSEBERT_CACHE_DIR", str(folder / "cache"))
        return folder / "model", finetune(config, save_to=folder / "model")


@pytest.fixture
def model(kept, workspace):
    """A copy of that model, in another place."""
    return shutil.copytree(kept[0], workspace / "my model")


def test_a_saved_model_is_used_like_any_other(model):
    sparse = load(model)
    assert not sparse.model.training and not hasattr(sparse.model, "sparsebert_degrees")
    with torch.no_grad():  # the tiny encoder's attention is nearly even, and its mask would hardly matter
        for parameter in sparse.model.bert.encoder.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    classify = pipeline("text-classification", model=sparse.model, tokenizer=str(model))
    alone = [classify(text, top_k=None, function_to_apply="none") for text in TEXTS]
    together = classify(TEXTS, batch_size=3, top_k=None, function_to_apply="none")

    with torch.no_grad():
        logits = sparse.model(**encoded()).logits
        sparse.undo()
        assert (sparse.model(**encoded()).logits - logits).abs().max() > 1e-3  # the plan matters
        with sparsify(sparse.model, f'learned("{model / "degrees.json"}")'):
            torch.testing.assert_close(sparse.model(**encoded()).logits, logits)
    for found in (alone, together):
        for scores, row in zip(found, logits.tolist(), strict=True):
            assert {score["label"]: score["score"] for score in scores} == pytest.approx(
                dict(zip(("bad", "good"), row, strict=True)), abs=1e-5
            )


def test_a_model_is_not_saved_over_anything_but_the_same_runs(small, workspace):
    folder = workspace / "model"
    for _ in range(2):
        find_or_train(RunConfig(**small), save_to=folder)
    notes = workspace / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("all of it")
    for seed, taken in ((1, folder), (0, notes)):
        with pytest.raises(InputError, match="holds something else; name a new one"):
            find_or_train(RunConfig(**small | {"seed": seed}), save_to=taken)
    assert [path.name for path in notes.iterdir()] == ["thesis.txt"]


def test_a_saved_model_can_be_moved(model, kept):
    result, record = evaluate(model), kept[1]
    assert result["metrics"] == pytest.approx(record.metrics)
    assert result["density"] == pytest.approx(record.density) == record.learning.hard_density
    assert result["plan"] == f'learned("{model}/degrees.json")'


def test_of_the_training_rows_an_evaluation_prepares_one(model, kept, monkeypatch):
    module, sizes = sys.modules["sparsebert.training.finetuning"], []

    def prepare(*how):
        rows = tokenizing.prepare(*how)
        sizes.append({split: len(each) for split, each in rows.items()})
        return rows

    monkeypatch.setattr(module, "prepare", prepare)
    assert evaluate(model)["metrics"] == pytest.approx(kept[1].metrics)
    assert sizes == [{"train": 1, "validation": kept[1].eval_rows}]


def test_a_saved_model_may_lie_in_a_folder_of_any_name(model, workspace):
    odd = workspace / "me@home; 2"
    shutil.copytree(model, odd)
    assert evaluate(odd)["density"] == evaluate(model)["density"]


def test_a_saved_model_is_evaluated_in_another_precision_and_by_another_kernel(model, kept):
    result = json.loads(
        call("evaluate", model, "--precision", "fp32", "--kernel", "reference", "--json").stdout
    )
    assert result["density"] == pytest.approx(kept[1].density)
    assert "precision=fp33" in refusal("evaluate", model, "--precision", "fp33")
    banded = evaluate(model, kernel="banded")["metrics"]  # degrees were soft while they were learned only
    assert banded == pytest.approx(result["metrics"])


def test_a_saved_model_holds_only_what_loading_needs(model, kept):
    needed = {"sparsebert.json", "degrees.json", "config.json", "model.safetensors", "tokenizer.json"}
    assert needed <= {path.name for path in model.iterdir()}
    settings = read_settings(model)
    assert settings.plan == 'learned("degrees.json")' and settings.labels == ["bad", "good"]
    assert RunConfig(**settings.config | {"encoder": "tiny"}) == kept[1].config
    with safe_open(model / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if "sparsebert" in name]  # noqa: SIM118


def test_a_saved_model_can_be_trained_further_and_then_does_not_need_the_first(small, model, workspace):
    fields = {"encoder": str(model), "plan": f'learned("{model / "degrees.json"}")', "train_size": 8}
    record = finetune(RunConfig(**small | fields), save_to=workspace / "further")
    shutil.rmtree(model)
    result = evaluate(workspace / "further")
    assert result["metrics"] == pytest.approx(record.metrics)
    assert result["density"] == pytest.approx(record.density)


# ---- the command line


def test_finetune_learns_saves_and_evaluate_gives_the_same(small, workspace):
    given = [*options(small), "--learn-degrees", "--target-density", ".4", "--max-distance", 6]
    record = json.loads(call("finetune", *given, "--save", workspace / "model", "--json").stdout)
    assert record["config"]["plan"] == "learned | global(cls)"
    assert record["config"]["degrees"]["target_density"] == 0.4
    assert record["learning"]["hard_density"] == pytest.approx(0.4, abs=0.015)
    result = json.loads(call("evaluate", workspace / "model", "--json").stdout)
    assert result["metrics"] == pytest.approx(record["metrics"])
    assert result["density"] == pytest.approx(record["density"])
    assert f"density {record['density']:.4f}" in call("evaluate", workspace / "model").stdout

    found = call("finetune", *given).stdout
    assert "found in the store" in found and "asked for 0.4" in found and "before hardening" in found
    again = call("finetune", *given, "--save", workspace / "second").stdout  # trained anew to be saved
    assert f"sparsebert evaluate {workspace / 'second'}" in again
    first, second = ((workspace / name / "degrees.json").read_text() for name in ("model", "second"))
    assert first == second


def test_the_degrees_of_a_run_are_written_for_other_plans(small, workspace):
    given = [*options(small), "--target-density", ".4", "--max-distance", 6]
    record = RunRecord.model_validate_json(call("finetune", *given, "--json").stdout)
    file = workspace / "new" / "mine.json"
    said = call("degrees", record.name, file).stdout
    assert load_degrees(file) == record.learning.degrees and f'learned("{file}")' in said
    again = call("finetune", *options(small | {"plan": f'learned("{file}") | global(cls)'}), "--json").stdout
    assert json.loads(again)["density"] == pytest.approx(record.density)


def test_degrees_that_no_run_learned_are_refused(small, workspace):
    record = json.loads(call("finetune", *options(small | {"train_size": 8}), "--json").stdout)
    assert "its plan is 'dense'" in refusal("degrees", record["name"], "mine.json")
    assert "there is no run '../notes'" in refusal("degrees", "../notes", "mine.json")


def test_degrees_are_not_written_over_a_folder(small, workspace):
    name = json.loads(call("finetune", *options(small), "--target-density", ".4", "--json").stdout)["name"]
    assert "is a folder" in refusal("degrees", name, workspace)
    assert "cannot be written" in refusal("degrees", name, workspace / "scores.csv" / "mine.json")


def test_an_option_of_learning_implies_it_and_a_plan_may_be_given(small):
    given = [*options(small | {"train_size": 8, "plan": "learned | neighbour(1)"}), "--sharing", "layer"]
    config = json.loads(call("finetune", *given, "--weights", "no", "--json").stdout)["config"]
    assert config["plan"] == "learned | neighbour(1)"
    assert (config["degrees"]["sharing"], config["degrees"]["weights"]) == ("layer", False)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (["--target-density", "2"], "target_density=2"),
        (["--sharing", "heads"], "sharing=heads"),
        (["--method", "mass"], "target_density, which is missing"),
        (["--learn-degrees", "--plan", "neighbour(1)"], "has no degrees to learn"),
        (["--plan", "learned"], "--learn-degrees"),
        (["--learn-degrees", "--plan", "learned - neighbour(1)"], "joins 'learned' with '|'"),
        (["--plan", "learned(no.json)"], "'no.json' cannot be read"),
        (["--target-density", "0.05"], "out of reach"),
    ],
)
def test_finetune_refuses_what_cannot_be_learned(small, given, answer):
    assert answer in refusal("finetune", *options(small), *given)


def test_finetune_help_says_how_degrees_are_learned():
    text = CliRunner().invoke(main, ["finetune", "--help"]).output
    for option in DegreeConfig.model_fields:
        assert f"--{option.replace('_', '-')}" in text
    assert "--learn-degrees" in text and "--save" in text


# ---- what is refused


def test_a_folder_without_a_saved_model_is_refused(workspace):
    assert "sparsebert.json' cannot be read: No such file" in said(lambda: load(workspace))
    assert "finetune --save FOLDER" in refusal("evaluate", workspace / "nowhere")


def test_degrees_that_are_torn_or_missing_are_named(model):
    degrees = model / "degrees.json"
    degrees.write_text(degrees.read_text()[:100])
    assert "degrees.json' cannot be read: the file: invalid JSON" in said(lambda: load(model))
    degrees.unlink()
    assert "degrees.json' cannot be read: No such file" in said(lambda: load(model))


@pytest.mark.parametrize(
    "change", [lambda text: text[:100], lambda text: text.replace("max_length", "longest")]
)
def test_settings_that_are_torn_or_foreign_are_named_in_one_sentence(model, change):
    settings = model / "sparsebert.json"
    settings.write_text(change(settings.read_text()))
    assert f"the saved model's settings '{settings}' cannot be read" in said(lambda: load(model))


def test_a_config_of_another_version_is_refused(model):
    settings = json.loads((model / "sparsebert.json").read_text())
    settings["config"]["warmth"] = 3
    (model / "sparsebert.json").write_text(json.dumps(settings))
    assert "unknown field of a run 'warmth'" in refusal("evaluate", model)


@pytest.mark.parametrize("left", [None, 100])
def test_a_folder_that_lost_its_weights_is_named(model, left):
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if left:
        weights.write_bytes(whole[:left])
    assert str(model) in said(lambda: load(model))


ODD = [  # a file of the folder, a field, a value, and what is said of it
    ("sparsebert.json", "max_length", -1, "max_length: "),
    ("sparsebert.json", "max_length", 0, "max_length: "),
    ("sparsebert.json", "max_length", 10**9, "max_length: "),
    ("sparsebert.json", "max_length", "32", "max_length: "),
    ("sparsebert.json", "max_length", 1000, "has 512 positions"),
    ("sparsebert.json", "labels", ["bad", "fine"], "the labels bad, good"),
    ("sparsebert.json", "labels", [], "labels: "),
    ("sparsebert.json", "plan", 'learned("/etc/passwd")', "not one of the folder's own"),
    ("sparsebert.json", "plan", 'learned("../degrees.json")', "not one of the folder's own"),
    ("sparsebert.json", "plan", 'learned("..")', "not one of the folder's own"),
    ("sparsebert.json", "plan", "neighbuor(2)", "did you mean 'neighbour'"),
    ("config.json", "num_hidden_layers", 1, "have no place in the model"),
    ("config.json", "num_hidden_layers", 3, "are missing"),
    ("config.json", "num_hidden_layers", 0, "from 1 to"),
    ("config.json", "hidden_size", 16, "of other sizes"),
    ("config.json", "hidden_act", "gulp", "could not be loaded"),
    ("config.json", "quantization_config", {"load_in_8bit": True}, "quantization_config"),
    ("config.json", "id2label", {"0": "a", "1": "b", "2": "c"}, "of other sizes"),
]


@pytest.mark.parametrize(("file", "field", "value", "answer"), ODD)
def test_files_that_are_odd_or_do_not_belong_together_are_named(model, file, field, value, answer):
    path = model / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert answer in said(lambda: load(model))


def test_weights_that_are_missing_left_over_or_no_numbers_are_named(model):
    path = model / "model.safetensors"
    whole = load_file(path)
    layer = "bert.encoder.layer.1.output.dense.bias"
    for changed, answer in (
        ({name: values for name, values in whole.items() if ".layer.1." not in name}, "are missing"),
        ({name: values for name, values in whole.items() if "classifier" not in name}, "2 are missing"),
        (whole | {"bert.encoder.layer.1.scale": whole[layer].clone()}, "1 have no place in the model"),
        (whole | {layer: whole[layer] * torch.nan}, f"not all of its weights are finite numbers ({layer})"),
        (whole | {layer: whole[layer][1:].clone()}, "of other sizes"),
    ):
        save_file(changed, path, {"format": "pt"})
        assert answer in said(lambda: load(model))


def test_a_saved_model_says_that_it_is_dense_without_its_plan(model, kept):
    card, config = (model / "README.md").read_text(), json.loads((model / "config.json").read_text())
    for text in (card, config["sparsebert"]["note"]):
        assert "AutoModel alone" in text and "dense" in text and "sparsebert.load" in text
    assert read_settings(model).plan in card and config["sparsebert"]["plan"] == read_settings(model).plan
    alone = AutoModelForSequenceClassification.from_pretrained(model)
    assert alone.config.sparsebert["note"] == config["sparsebert"]["note"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_are_those_of_the_record_however_texts_are_batched(small, workspace, side):
    encoder = workspace / "encoder"
    torch.manual_seed(0)
    whole = load_classifier("tiny", ("a", "b"))
    with torch.no_grad():
        for parameter in whole.parameters():  # as near to 0 as a new model's, padding would hardly matter
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    whole.save_pretrained(encoder)
    tokenizer = load_tokenizer("tiny")
    tokenizer.padding_side = side
    tokenizer.save_pretrained(encoder)
    fields = {"encoder": str(encoder), "plan": "neighbour(1) | global(cls)", "train_size": 8}
    finetune(RunConfig(**small | fields), save_to=workspace / "model")
    sparse, padded = load(workspace / "model"), load_tokenizer(str(workspace / "model"))
    classify = pipeline("text-classification", model=sparse.model, tokenizer=padded, top_k=None)
    alone = [classify([text])[0] for text in TEXTS]
    for one, other in zip(alone, classify(TEXTS, batch_size=3), strict=True):
        assert [a["label"] for a in one] == [b["label"] for b in other]
        assert [a["score"] for a in one] == pytest.approx([b["score"] for b in other], abs=1e-5)


def test_token_types_that_a_model_lacks_are_left_out(small, workspace):
    """RoBERTas with BERT's tokenizer: it gives the second text of a pair a type that they don't have."""
    verbs = ("bores", "charms") * 10
    lines = [f"The film {verb} us.,So it is {i}.,{i % 2}" for i, verb in enumerate(verbs)]
    (workspace / "pairs.csv").write_text("\n".join(["text,text_pair,label", *lines]) + "\n")
    encoder = save_encoder(workspace / "roberta", CONFIGS["roberta"].__class__(**SMALL, type_vocab_size=1))
    assert 1 in load_tokenizer(encoder)("a", "b")["token_type_ids"]
    fields = {"encoder": encoder, "task": f"file:{workspace / 'pairs.csv'}", "train_size": 8}
    record = finetune(RunConfig(**small | fields), save_to=workspace / "model")
    assert evaluate(workspace / "model")["metrics"] == pytest.approx(record.metrics)
    tokenizer = load_tokenizer(str(workspace / "model"))
    assert "token_type_ids" not in tokenizer("a", "b")
    pipeline("text-classification", model=load(workspace / "model").model, tokenizer=tokenizer)(
        {"text": "a", "text_pair": "b"}
    )


def test_a_place_where_no_model_can_be_saved_is_refused_before_training(small, workspace):
    (workspace / "file").write_text("")
    config = RunConfig(**small)
    refused = said(lambda: find_or_train(config, save_to=workspace / "file" / "model"))
    assert "cannot be written" in refused and "--save" in refused
    assert RunStore().find(config) is None


def test_degrees_of_another_encoder_are_refused(model):
    HardDegrees(max_distance=1, kept=[[[1]] * 3] * 2).save(model / "degrees.json")
    assert "learned for 3 heads a layer, and this encoder has 2" in refusal("evaluate", model)


def test_a_model_is_evaluated_on_other_rows_with_the_same_labels_alone(model, workspace):
    result = evaluate(model, f"file:{workspace / 'classes.csv'}", eval_size=3)
    assert result["task"] == f"file:{workspace / 'classes.csv'}" and result["eval_rows"] == 3
    rows = (workspace / "classes.csv").read_text()
    (workspace / "other.csv").write_text(rows.replace("good", "fine"))
    answer = refusal("evaluate", model, "--task", f"file:{workspace / 'other.csv'}")
    assert "gives bad, good" in answer and "bad, fine" in answer


def test_classes_are_not_evaluated_on_numbers(model, workspace):
    refusal("evaluate", model, "--task", f"file:{workspace / 'scores.csv'}")


def test_numbers_are_not_evaluated_on_classes(scored, workspace):
    finetune(RunConfig(**scored | {"train_size": 8}), save_to=workspace / "numbers")
    refusal("evaluate", workspace / "numbers", "--task", f"file:{workspace / 'classes.csv'}")
