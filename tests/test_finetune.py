from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from test_runs import input_hash
from transformers import Trainer

import sparsebert.training.finetuning  # noqa: F401
from sparsebert.cli import main
from sparsebert.data.rows import Collator
from sparsebert.data.tasks import get_task
from sparsebert.data.tokenizing import prepare
from sparsebert.errors import InputError
from sparsebert.machine import device_name, peak_memory, resolve_precision
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.sweeps.running import find_or_train, run_all
from sparsebert.training import checkpoints
from sparsebert.training.checkpoints import MANIFEST, declare_whole, last_whole
from sparsebert.training.finetuning import finetune
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig, RunRecord, RunStore

module = sys.modules["sparsebert.training.finetuning"]
sweeps = sys.modules["sparsebert.sweeps.running"]
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


def test_a_record_names_the_data_and_the_code_that_the_run_began_with(small, monkeypatch):
    commits = iter(["first", "second"])
    monkeypatch.setattr(module, "commit", lambda: next(commits))
    run = Run.of(RunConfig(**small))
    begun_with = run.data_hash
    with open(small["task"].removeprefix("file:"), "a") as file:
        file.write("a film that came later,good\n")
    record = finetune(run)
    assert (record.data_hash, record.commit) == (begun_with, "first") != (input_hash(run.config), "first")


def test_a_local_encoder_whose_files_changed_is_another_input(small, workspace):
    folder = workspace / "encoder"
    load_classifier("tiny", ("0", "1")).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    config = RunConfig(**small | {"encoder": str(folder)})
    before = input_hash(config)
    assert before == input_hash(config) != get_task(small["task"]).data_hash
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    assert input_hash(config) != before
    assert input_hash(RunConfig(**small)) == get_task(small["task"]).data_hash


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_the_memory_of_a_run_is_not_that_of_an_earlier_one(small):
    big = torch.ones(2**28)  # 1 GiB
    high = peak_memory()
    del big
    assert finetune(RunConfig(**small)).peak_memory_mib < high - 500


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells the peak of a process alone")
def test_the_memory_of_a_process_is_not_that_of_its_parent():
    ballast = b"x" * (900 << 20)
    command = [sys.executable, "-c", "from sparsebert.machine import peak_memory; print(peak_memory())"]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 10 < peak < 700 < peak_memory() and len(ballast)


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


# ---- rows and batches


@pytest.mark.parametrize("labels", ["classes", "scores"])
def test_rows_and_their_batches_are_those_of_the_prepared_data(small, workspace, labels):
    task = get_task(f"file:{workspace / labels}.csv")
    whole = prepare(task, "tiny", 32, train_size=20, parsed=True)["train"]
    rows, collate = whole.select([3, 0, 11, 7]), Collator(pad_token_id=0)
    assert len(rows) == 4 and rows.lengths == [len(rows[index]["input_ids"]) for index in range(4)]
    naive = [whole[index] for index in (3, 0, 11, 7)]
    batch, longest = collate([rows[index] for index in range(4)]), max(rows.lengths)
    assert set(batch) == {*whole.tokens, "labels"}
    for name, values in batch.items():
        if name == "labels":
            assert values.tolist() == pytest.approx([row["label"] for row in naive])
            assert values.dtype == (torch.int64 if labels == "classes" else torch.float32)
        else:
            padding = -1 if name in ("word_ids", "head_ids") else 0
            padded = [[*row[name], *[padding] * (longest - len(row[name]))] for row in naive]
            assert values.dtype == torch.int64 and values.tolist() == padded
    lists = [{n: v if n == "label" else v.tolist() for n, v in row.items()} for row in naive]
    assert all(torch.equal(values, collate(lists)[name]) for name, values in batch.items())
    plain = {name: values for name, values in rows[0].items() if name not in ("word_ids", "head_ids")}
    assert set(collate([plain])) == set(batch) - {"word_ids", "head_ids"}


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


def test_a_plan_for_layers_that_the_encoder_lacks_is_refused_before_anything_is_parsed(small, monkeypatch):
    monkeypatch.setattr("sparsebert.training.resolved.prepare", refuse_to_prepare)
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
    assert {folder.name for folder in scratch.iterdir()} == {f"checkpoint-{step - n}" for n in (1, 2)}
    resumed, whole = finetune(scored, scratch=scratch), finetune(scored)
    assert results(resumed) == pytest.approx(results(whole), rel=1e-5)
    assert resumed.steps == whole.steps == 8
    trained_now = resumed.examples_per_second["train"] * resumed.seconds["train"]
    assert trained_now == pytest.approx((8 - step + 1) * 8)


def damage(path: Path, how: str) -> None:
    if how == "lost":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "changed":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.unlink()
        path.mkdir()


FILES = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", MANIFEST)


@pytest.fixture
def interrupted(scored, workspace):
    """Checkpoints of the run, which was interrupted at its sixth step."""
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(KeyboardInterrupt):
            finetune(scored, scratch=workspace / "interrupted", checkpoint_seconds=0)
    return workspace / "interrupted"


def test_a_checkpoint_with_a_damaged_file_is_removed_and_an_older_one_taken(scored, interrupted, workspace):
    whole = finetune(scored)
    for how in ("lost", "empty", "truncated", "changed", "a folder"):
        scratch = shutil.copytree(interrupted, workspace / how)
        last = scratch / "checkpoint-5"
        for name in FILES:
            damage(last / name, how)
            assert last_whole(scratch) == (scratch / "checkpoint-4", 4) and not last.exists()
            shutil.copytree(interrupted / last.name, last)
        assert last_whole(scratch, processes=2) == (None, 0) and not list(scratch.iterdir())
        shutil.copytree(interrupted, scratch, dirs_exist_ok=True)
        damage(last / "optimizer.pt", how)
        if how == "lost":  # all of them: the run starts anew
            damage(scratch / "checkpoint-4" / "rng_state.pth", how)
        resumed = finetune(scored, scratch=scratch)
        assert resumed.metrics == whole.metrics, how
        assert results(resumed) == pytest.approx(results(whole), rel=1e-6), how


def test_a_run_does_not_go_on_in_another_precision_or_on_another_device(scored, interrupted, monkeypatch):
    monkeypatch.setattr(checkpoints, "device_name", lambda: device_name().replace("threads", "of them"))
    assert last_whole(interrupted) == (interrupted / "checkpoint-5", 5)
    monkeypatch.setattr(checkpoints, "device_name", lambda: "another device")
    monkeypatch.setattr(checkpoints, "remove", lambda path: None)
    assert last_whole(interrupted) == (None, 0)
    monkeypatch.undo()
    monkeypatch.setattr(module, "resolve_precision", lambda precision: "bf16")
    record = finetune(scored, scratch=interrupted)
    trained_now = record.examples_per_second["train"] * record.seconds["train"]
    assert record.precision == "bf16" and trained_now == pytest.approx(record.steps * 8)


class Evil:
    """What a checkpoint of someone else may hold: code that runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path("evil").touch, ()


def test_code_in_a_checkpoint_is_never_run(scored, interrupted, workspace):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        scratch = shutil.copytree(interrupted, workspace / name)
        last = scratch / "checkpoint-5"
        torch.save(Evil(), last / name)
        if name != "training_args.bin":  # which is not read
            declare_whole(last)
            with pytest.raises(UnpicklingError):
                finetune(scored, scratch=scratch)
        torch.save(Evil(), last / name)
        (last / MANIFEST).write_text("{}")
        finetune(scored, scratch=scratch)
        assert not (workspace / "evil").exists(), name


def test_a_run_goes_on_where_there_is_no_room_for_a_checkpoint(scored, workspace, monkeypatch, capfd):
    scratch, kept = workspace / "scratch", []
    errors = iter(
        [OSError(28, "No space left on device"), RuntimeError("file write failed"), None, *[OSError()] * 9]
    )

    def save(trainer, model, trial, write=Trainer._save_checkpoint):
        write(trainer, model, trial)
        if error := next(errors):
            raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    monkeypatch.setattr(module, "declare_whole", lambda folder, *_: kept.append(folder.name))
    record = finetune(scored, scratch=scratch, checkpoint_seconds=0)
    assert kept == ["checkpoint-3"] == [folder.name for folder in scratch.iterdir()]
    assert capfd.readouterr().err.count("no checkpoint could be kept: ") == record.steps - 1
    monkeypatch.undo()
    assert results(record) == pytest.approx(results(finetune(scored)), rel=1e-6)


def test_a_run_is_recorded_before_its_model_is_saved(small, workspace, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save", full)
    config = RunConfig(**small)
    with pytest.raises(InputError, match=r"is finished, but .*No space left.*another --save"):
        find_or_train(config, save_to=workspace / "model")
    assert find_or_train(config)[1]


def test_a_record_without_room_is_put_elsewhere(small, workspace):
    class Full(RunStore):
        def add(self, record):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"No space left on device.*it is in '.*\.json'"):
        find_or_train(RunConfig(**small), Full())


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_variable_that_is_not_set_is_not_taken_for_a_folder(small):
    for option in ("--save", "--data-dir", "--prepared", "--runs-dir"):
        assert f"{option} is empty; name a folder" in call("finetune", option, "", code=2)


def test_degrees_are_written_over_degrees_alone(small, workspace):
    how = {"method": "mass", "target_density": 0.5}
    record, _ = find_or_train(RunConfig(**small | {"plan": "learned", "degrees": how}))
    (workspace / "own.json").write_text('{"my": "file"}')
    assert "holds something else than degrees" in call("degrees", record.name, "own.json", code=2)
    assert (workspace / "own.json").read_text() == '{"my": "file"}'
    call("degrees", record.name, "own.json", "--force")
    call("degrees", record.name, "own.json")


def test_labels_too_large_and_a_number_that_is_none_have_their_own_sentence(small, workspace):
    (workspace / "huge.csv").write_text(
        "text,label\n" + "".join(f"row {n},{n + 1}.5e300\n" for n in range(20))
    )
    with pytest.raises(InputError, match=r"line 2: label '1.5e300' .* none beyond"):
        finetune(RunConfig(**small | {"task": "file:huge.csv"}))
    assert "epochs=nan: input should be a finite number" in call("finetune", "--epochs", "nan", code=2)


def test_waiting_threads_spin_briefly_unless_a_person_says_otherwise():
    code = "import os, sparsebert; print(os.environ.get('GOMP_SPINCOUNT'))"

    def said(**variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True
        ).stdout.strip()

    assert 0 < int(said()) < 300_000
    assert said(GOMP_SPINCOUNT="7") == "7" and said(OMP_WAIT_POLICY="active") == "None"


# ---- what the environment says


def test_variables_of_accelerate_do_not_change_a_run(small, monkeypatch):
    before = finetune(RunConfig(**small))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    after = finetune(RunConfig(**small))
    assert results(after) == results(before) and after.precision == "fp32"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WORLD_SIZE", "2", "WORLD_SIZE is set without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ("ACCELERATE_USE_FSDP", "true", "ACCELERATE_USE_FSDP is set"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "ACCELERATE_DYNAMO_BACKEND is set"),
    ],
)
def test_variables_that_ask_for_another_run_are_refused(small, monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=sentence):
        finetune(RunConfig(**small))


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
    assert "3 runs: 3 recorded, none to train" in capsys.readouterr().err
    assert find_or_train(sweep[0]) == (records[0], True)


def test_a_sweep_that_stops_keeps_what_was_finished(small, monkeypatch):
    store = RunStore()

    def second_fails(run, *args, **kwargs):
        if run.config.seed == 1:
            raise KeyboardInterrupt
        return finetune(run, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "finetune", second_fails)
        with pytest.raises(KeyboardInterrupt):
            run_all(configs(small, 0, 1, 2), store, workers=1)
    (first,) = store
    assert first.config.seed == 0
    assert run_all(configs(small, 0, 1), store, workers=1)[0] == first


def test_data_that_changed_are_trained_on_anew(small, workspace, capsys):
    config = RunConfig(**small)
    before, _ = find_or_train(config)
    rows = (workspace / "classes.csv").read_text().replace("bores", "tires")
    (workspace / "classes.csv").write_text(rows)
    after, found = find_or_train(config)
    assert not found and after.data_hash != before.data_hash and after.name == before.name
    assert "moved to" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_records_of_one(small, workspace):
    sweep = configs(small, 0, 1)
    alone = run_all(sweep, RunStore(workspace / "one"), workers=1)
    together = run_all(sweep, RunStore(workspace / "two"), workers=2)
    assert [record.config for record in together] == sweep
    for one, other in zip(alone, together, strict=True):
        assert results(one) == pytest.approx(results(other), rel=1e-5)
    assert sorted(record.name for record in RunStore(workspace / "two")) == sorted(c.name for c in sweep)
