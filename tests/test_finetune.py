from __future__ import annotations

import sys

import pytest
import torch

import sparsebert.finetune
from sparsebert.encoders import load_tokenizer
from sparsebert.errors import InputError
from sparsebert.finetune import finetune, resolve_precision
from sparsebert.runs import RunConfig, RunRecord, RunStore
from sparsebert.sweeps import run, run_all
from sparsebert.tasks import get_task

module = sys.modules["sparsebert.finetune"]  # the package's attribute of that name may be the function
sweeps = sys.modules["sparsebert.sweeps"]
MASKED = "neighbour(1) | global(cls) @ late"


def results(record: RunRecord) -> list[float]:
    """Every number of a record that a config determines."""
    return [*record.metrics.values(), record.train_loss, *record.density_per_layer, record.padded_density]


# ---- one run


def test_the_densities_of_a_run_are_those_counted_by_hand(small):
    record = finetune(RunConfig(**small | {"plan": MASKED}))
    texts = get_task(small["task"]).load()["validation"]["text"]
    lengths = [len(load_tokenizer("tiny")(text)["input_ids"]) for text in texts]
    assert len(set(lengths)) > 1 and max(lengths) < 32
    allowed = [
        sum(abs(query - key) <= 1 or 0 in (query, key) for query in range(length) for key in range(length))
        for length in lengths
    ]
    pairs = sum(length**2 for length in lengths)
    assert record.density_per_layer == pytest.approx([1, sum(allowed) / pairs])
    assert record.density == pytest.approx((1 + sum(allowed) / pairs) / 2)
    square = len(lengths) * 32**2
    assert record.padded_density_per_layer == pytest.approx([pairs / square, sum(allowed) / square])
    assert record.padded_density < record.density


def test_a_record_says_what_ran(small):
    config = RunConfig(**small | {"epochs": 1.5, "eval_size": 7})
    record = finetune(config)
    assert record.name == config.name and record.config == config
    assert (record.train_rows, record.eval_rows, record.steps) == (32, 7, 6)
    assert set(record.metrics) == {"accuracy", "macro_f1"}
    assert record.data_hash == get_task(small["task"]).data_hash
    assert record.precision == "fp32" and record.device
    assert record.versions["torch"] == torch.__version__
    assert all(value > 0 for value in (*record.seconds.values(), *record.examples_per_second.values()))
    assert record.examples_per_second["train"] == pytest.approx(48 / record.seconds["train"])
    assert record.peak_memory_mib > 1
    assert RunRecord.model_validate_json(record.model_dump_json()) == record


def test_the_same_config_gives_the_same_run_and_another_seed_another(small):
    first, again = (finetune(RunConfig(**small)) for _ in range(2))
    assert results(first) == results(again)
    assert finetune(RunConfig(**small, seed=1)).train_loss != first.train_loss


def test_the_plan_changes_the_training(small):
    dense, masked = (finetune(RunConfig(**small | {"plan": plan})) for plan in ("dense", "neighbour(0)"))
    assert dense.train_loss != masked.train_loss
    assert dense.density == 1 > masked.density


def test_a_run_learns_what_can_be_learned(small):
    record = finetune(RunConfig(**small | {"epochs": 12, "train_size": None}))
    assert record.train_loss < 0.6 and record.metrics["accuracy"] >= 0.75


def test_numbers_are_predicted_where_labels_are_numbers(small, workspace):
    record = finetune(RunConfig(**small | {"task": f"file:{workspace / 'scores.csv'}"}))
    assert set(record.metrics) == {"pearson", "spearman"}
    assert all(-1 <= value <= 1 for value in record.metrics.values())


def test_a_plan_of_parses_runs_end_to_end(small):
    record = finetune(RunConfig(**small | {"plan": "syntax | global(cls) @ 1", "train_size": 16}))
    dense, syntactic = record.density_per_layer
    assert dense == 1 and 0.1 < syntactic < 0.9


def test_a_plan_of_embeddings_runs_end_to_end(small):
    record = finetune(RunConfig(**small | {"plan": "lexical(1) | global(cls)", "train_size": 16}))
    assert 0 < record.density < 1


# ---- what is refused


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert resolve_precision("auto") == resolve_precision("fp32") == "fp32"
    with pytest.raises(InputError, match=r"precision=bf16: .*write precision=fp32 or auto"):
        resolve_precision("bf16")


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_bf16_is_taken_where_the_processor_computes_in_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert resolve_precision("auto") == resolve_precision("bf16") == "bf16"
    assert resolve_precision("fp32") == "fp32"


def refuse_to_prepare(*_, **__):
    pytest.fail("data was prepared before the config was found wrong")


def test_more_tokens_than_the_encoder_has_positions_are_refused(small, monkeypatch):
    def few_positions(name, label_names):
        model = sparsebert.encoders.load_classifier(name, label_names)
        model.config.max_position_embeddings = 16
        return model

    monkeypatch.setattr(module, "load_classifier", few_positions)
    monkeypatch.setattr(module, "prepare", refuse_to_prepare)
    with pytest.raises(InputError, match="max_length=32: encoder 'tiny' has 16 positions"):
        finetune(RunConfig(**small))


def test_a_plan_for_layers_that_the_encoder_lacks_is_refused_before_anything_is_parsed(small, monkeypatch):
    monkeypatch.setattr(module, "prepare", refuse_to_prepare)
    with pytest.raises(InputError, match=r"placement '5' names a layer that this encoder lacks.*0-1"):
        finetune(RunConfig(**small | {"plan": "syntax @ 5"}))


# ---- interruptions


def interrupt_at(monkeypatch, step: int) -> None:
    class Interrupt(module._Progress):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "_Progress", Interrupt)


@pytest.fixture
def scored(small, workspace):
    """A run of 8 steps whose metrics show every small difference."""
    return RunConfig(**small | {"task": f"file:{workspace / 'scores.csv'}", "epochs": 2, "plan": MASKED})


@pytest.mark.parametrize("step", [3, 6])
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(scored, workspace, step):
    scratch = workspace / "scratch"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(KeyboardInterrupt):
            finetune(scored, scratch=scratch, checkpoint_seconds=0)
    assert [folder.name for folder in scratch.iterdir()] == [f"checkpoint-{step - 1}"]
    resumed, whole = finetune(scored, scratch=scratch), finetune(scored)
    assert results(resumed) == pytest.approx(results(whole), rel=1e-5)
    assert resumed.steps == whole.steps == 8
    trained_now = resumed.examples_per_second["train"] * resumed.seconds["train"]
    assert trained_now == pytest.approx((8 - step + 1) * 8)


def test_a_checkpoint_that_was_torn_is_not_used(scored, workspace):
    scratch = workspace / "scratch"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(KeyboardInterrupt):
            finetune(scored, scratch=scratch, checkpoint_seconds=0)
    (scratch / "checkpoint-5" / "trainer_state.json").unlink()
    assert results(finetune(scored, scratch=scratch)) == pytest.approx(results(finetune(scored)), rel=1e-5)
    assert not (scratch / "checkpoint-5").exists()


def test_a_short_run_writes_no_checkpoint(small, workspace):
    finetune(RunConfig(**small), scratch=workspace / "scratch")
    assert not list((workspace / "scratch").glob("checkpoint-*"))


def test_training_prints_nothing_but_its_progress(small, workspace, capfd):
    finetune(RunConfig(**small), scratch=workspace / "scratch", checkpoint_seconds=0, progress_seconds=1e-9)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [f"    step {n} of 4" for n in (1, 2, 3, 4)]


# ---- sweeps


def never(*_, **__):
    pytest.fail("a run that was recorded was trained again")


def configs(small, *seeds: int) -> list[RunConfig]:
    return [RunConfig(**small | {"train_size": 8}, seed=seed) for seed in seeds]


def test_a_sweep_returns_its_records_in_order_and_the_second_time_trains_nothing(small, monkeypatch, capsys):
    sweep = configs(small, 2, 0, 2, 1)
    records = run_all(sweep, workers=1)
    assert [record.config for record in records] == sweep
    assert capsys.readouterr().err.count("density") == 3
    monkeypatch.setattr(sweeps, "finetune", never)
    assert run_all(sweep, workers=1) == records
    assert "3 of 3 runs found" in capsys.readouterr().err
    assert run(sweep[0]) == (records[0], True)


def test_a_sweep_that_stops_keeps_what_was_finished(small, monkeypatch):
    store = RunStore()

    def second_fails(config, *args, **kwargs):
        if config.seed == 1:
            raise KeyboardInterrupt
        return finetune(config, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "finetune", second_fails)
        with pytest.raises(KeyboardInterrupt):
            run_all(configs(small, 0, 1, 2), store, workers=1)
    (first,) = store
    assert first.config.seed == 0
    assert run_all(configs(small, 0, 1), store, workers=1)[0] == first


def test_data_that_changed_are_trained_on_anew(small, workspace, capsys):
    config = RunConfig(**small)
    before, _ = run(config)
    rows = (workspace / "classes.csv").read_text().replace("bores", "tires")
    (workspace / "classes.csv").write_text(rows)
    after, found = run(config)
    assert not found and after.data_hash != before.data_hash and after.name == before.name
    assert "set aside" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_records_of_one(small, workspace):
    sweep = configs(small, 0, 1)
    alone = run_all(sweep, RunStore(workspace / "one"), workers=1)
    together = run_all(sweep, RunStore(workspace / "two"), workers=2)
    assert [record.config for record in together] == sweep
    for one, other in zip(alone, together, strict=True):
        assert results(one) == pytest.approx(results(other), rel=1e-5)
    assert sorted(record.name for record in RunStore(workspace / "two")) == sorted(c.name for c in sweep)
