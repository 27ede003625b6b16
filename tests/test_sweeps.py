from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Future, wait
from pathlib import Path

import psutil
import pytest
import test_runs
import yaml
from click.testing import CliRunner
from studies import study
from test_cli import call as command
from test_encoders import save_encoder
from test_runs import input_hash
from transformers import BertConfig, TrainingArguments, set_seed

from sparsebert.cli import main
from sparsebert.cli.options import duration
from sparsebert.errors import InputError
from sparsebert.machine import device_name
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.models.sparsified import sparsify
from sparsebert.paths import Folders, InUse
from sparsebert.patterns.plans import parse_plan
from sparsebert.study.results import recorded
from sparsebert.sweeps import unfinished
from sparsebert.sweeps.estimates import Estimates
from sparsebert.sweeps.executors import InlineExecutor, WorkerDied, open_executor
from sparsebert.sweeps.grids import expand_grid, load_grid, only
from sparsebert.sweeps.running import sweep
from sparsebert.training.finetuning import finetune
from sparsebert.training.runs import RunConfig, RunRecord, RunStore

sweeps = sys.modules["sparsebert.sweeps.running"]
ROOT = Path(__file__).resolve().parent.parent


def record_of(config: RunConfig, **changes: object) -> RunRecord:
    """A record as a run of a few seconds on this machine would leave it."""
    fields = {
        "train_rows": 32,
        "eval_rows": 12,
        "seconds": {"prepare": 1.0, "train": 2.0, "evaluate": 0.5},
        "examples_per_second": {"train": 16.0, "evaluate": 24.0},
        "device": device_name(),
        "data_hash": input_hash(config),
    }
    return test_runs.record_of(config, **fields | changes)


@pytest.fixture
def trained(monkeypatch):
    """Runs take no time; the list of those that were trained, and what happens in a run of a seed."""
    done: list[int] = []
    accidents: dict[int, BaseException] = {}

    def finetune(run, scratch=None, recorded=lambda record: None, **_):
        if run.config.seed in accidents:
            raise accidents[run.config.seed]
        done.append(run.config.seed)
        record = record_of(run.config)
        recorded(record)
        return record

    monkeypatch.setattr(sweeps, "finetune", finetune)
    finetune.done, finetune.accidents = done, accidents
    return finetune


def seeds(small, *numbers: int) -> list[RunConfig]:
    return [RunConfig(**small, seed=number) for number in numbers]


def write_grid(folder: Path, **grid: object) -> str:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return str(path)


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, ["sweep", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_runs_of_the_book_are_on_record_unless_they_are_to_be_made_anew(small, trained, monkeypatch):
    kept, other = seeds(small | {"labels": {"treatment": "own"}}, 0, 1)
    book = [
        record_of(kept.model_copy(update={"labels": {"part": "first"}})),
        record_of(other, data_hash="e" * 64),
    ]
    monkeypatch.setattr(sweeps, "recorded", lambda: book)
    result = sweep([kept, other])
    assert result.found == [kept] and result.trained == [other] and trained.done == [1]
    first, _ = sweeps.run_all([kept, other])
    assert first.config.labels == {"treatment": "own", "part": "first"} and trained.done == [1]
    monkeypatch.setenv("SPARSEBERT_FRESH", "1")
    assert sweep([kept, other]).trained == [kept]


# ---- grids


def pairs(grid: dict, *names: str) -> list[tuple]:
    return [tuple(getattr(config, name) for name in names) for config in expand_grid(grid)]


def test_lists_multiply_and_the_last_varies_fastest():
    grid = {"plan": ["dense", "neighbour(1)"], "seed": [0, 1, 2], "task": "topics"}
    naive = [(plan, seed, "topics") for plan in ("dense", "neighbour(1)") for seed in (0, 1, 2)]
    assert pairs(grid, "plan", "seed", "task") == naive


def test_zipped_lists_go_hand_in_hand_and_blocks_multiply():
    grid = {
        "seed": [0, 1],
        "zip": [
            {"task": ["reviews", "topics"], "max_length": [64, 512]},
            {"epochs": [1, 2], "batch_size": [8, 4]},
        ],
    }
    found = pairs(grid, "seed", "task", "max_length", "epochs", "batch_size")
    assert len(found) == len(set(found)) == 8
    assert {row[1:3] for row in found} == {("reviews", 64), ("topics", 512)}
    assert {row[3:] for row in found} == {(1, 8), (2, 4)}
    assert [row[0] for row in found] == 4 * [0, 1], "blocks vary slowest"
    assert [row[1] for row in found] == 4 * ["reviews"] + 4 * ["topics"]


def test_a_run_that_meets_all_of_a_condition_is_left_out():
    grid = {
        "task": ["reviews", "topics"],
        "plan": ["dense", "neighbour(2) | global(cls)"],
        "seed": [0, 1],
        "exclude": [
            {"task": "topics", "seed": [1, 2]},
            {"plan": "neighbour( 2 )|global(cls)", "task": "reviews"},
        ],
    }
    masked = "neighbour(2) | global(cls)"
    assert pairs(grid, "task", "plan", "seed") == [
        ("reviews", "dense", 0),
        ("reviews", "dense", 1),
        ("topics", "dense", 0),
        ("topics", masked, 0),
    ]


def test_lists_multiply_inside_degrees_and_impossible_combinations_can_be_excluded():
    grid = {
        "plan": "learned",
        "degrees": {"method": ["survival", "span"], "harden": ["support", "irregular"]},
    }
    with pytest.raises(InputError, match=r"grid, degrees: method=span .* write harden=support"):
        expand_grid(grid)
    grid["exclude"] = {"degrees": {"method": "span", "harden": "irregular"}}
    found = [(config.degrees.method, config.degrees.harden) for config in expand_grid(grid)]
    assert found == [("survival", "support"), ("survival", "irregular"), ("span", "support")]


def test_a_condition_about_degrees_knows_their_defaults_and_runs_without_any():
    grid = {"plan": "learned", "degrees": [None, {"price": [0.1, 2e-1]}]}
    assert len(expand_grid(grid)) == 3
    with_default = grid | {"exclude": {"degrees": {"method": "survival", "price": 0.2}}}
    assert [config.degrees and config.degrees.price for config in expand_grid(with_default)] == [None, 0.1]
    assert len(expand_grid(grid | {"exclude": [{"degrees": None}]})) == 2


def test_each_seed_has_a_random_graph_of_its_own():
    grid = {"seed": [0, 5], "plan": ["random(2, seed={seed}) | global(cls)", "dense"]}
    assert pairs(grid, "seed", "plan") == [
        (0, "random(2) | global(cls)"),
        (0, "dense"),
        (5, "random(2, seed=5) | global(cls)"),
        (5, "dense"),
    ]
    with pytest.raises(InputError, match=r"plan, item 1: .*random"):
        expand_grid(grid | {"plan": ["random({sed}) | global(cls)"]})
    named, drawn = "random(2,seed={seed}) | global(cls)", "random(2, seed=5) | global(cls)"
    assert pairs(grid | {"exclude": {"plan": drawn}}, "seed") == [(0,), (0,), (5,)]
    assert pairs(grid | {"exclude": {"plan": named, "seed": 0}}, "seed") == [(0,), (5,), (5,)]
    assert [config.seed for config in only(expand_grid(grid), [f"plan={named}"])] == [0, 5]


def test_several_grids_share_what_stands_outside_and_a_run_of_both_is_made_once():
    grid = {
        "seed": [0, 1],
        "train_size": 8,
        "exclude": {"seed": 1, "plan": "dense"},
        "grids": [{"plan": ["dense", "neighbour(1)"]}, {"plan": "neighbour(1)", "train_size": [8, 16]}],
    }
    assert pairs(grid, "plan", "train_size", "seed") == [
        ("dense", 8, 0),
        ("neighbour(1)", 8, 0),
        ("neighbour(1)", 8, 1),
        ("neighbour(1)", 16, 0),
        ("neighbour(1)", 16, 1),
    ]


def test_labels_are_joined_and_change_no_run():
    grid = {
        "labels": {"for": "C4"},
        "grids": [
            {"seed": [0, 1], "labels": {"treatment": "named heads", "density": 0.1}},
            {"seed": [1, 2]},
            {"zip": [{"seed": [3, 4], "labels": [{"treatment": "a"}, {"treatment": "b"}]}]},
        ],
    }
    configs = expand_grid(grid)
    assert configs == [RunConfig(seed=seed) for seed in range(5)]
    named = {"density": "0.1", "for": "C4", "treatment": "named heads"}
    assert [config.labels for config in configs[:3]] == [named, named, {"for": "C4"}]
    assert [config.labels["treatment"] for config in configs[3:]] == ["a", "b"]
    with pytest.raises(
        InputError, match=r"item 2, labels: one run is labelled for=C5 and for=C4; give it one"
    ):
        expand_grid({"grids": [{"labels": {"for": "C4"}}, {"labels": {"for": "C5"}}]})


@pytest.mark.parametrize(
    "grid, sentence",
    [
        ("seeds: [1]", r"grid.yaml: unknown field 'seeds': did you mean 'seed'"),
        ("zpi: []", r"unknown field 'zpi': did you mean 'zip'"),
        ("1: 2", r"unknown field '1'"),
        ("- seed", r"write fields of a run"),
        ("seed: [0, -1]", r"grid.yaml, seed, item 2: seed=-1: input should be greater"),
        ("seed: []", r"grid.yaml, seed: the list is empty"),
        ("plan: [dense, neighbor(2)]", r"plan, item 2: .*did you mean 'neighbour'"),
        ("degrees: {methd: span}", r"degrees: unknown field of degrees 'methd': did you mean 'method'"),
        ("degrees: {price: -1}", r"degrees: price=-1"),
        ("degrees: span", r"degrees"),
        ("zip: {seed: [0, 1], epochs: [1]}", r"zip, item 1: zipped lists .*seed has 2, epochs has 1"),
        ("zip: {seed: [0, x], epochs: [1, 2]}", r"zip, item 1, seed, item 2: seed=x"),
        ("zip: {sed: [0, 1]}", r"zip, item 1: unknown field 'sed': did you mean 'seed'"),
        ("seed: 1\nzip: {seed: [0, 1]}", r"zip, item 1: 'seed' is given twice"),
        ("seed: 1\nseed: 2", r"grid.yaml, line 2: 'seed' stands twice"),
        ("zip: {}\nseed: 1", r"zip, item 1 is empty"),
        ("exclude: {task: topcs}\nseed: 1", r"leaves no run out"),
        ("exclude: {seed: a}\nseed: 1", r"exclude, item 1, seed: seed=a"),
        ("exclude: {seed: 7}\nseed: 1", r"exclude, item 1 leaves no run out"),
        ("exclude: {degrees: {metod: span}}", r"exclude, item 1, degrees: .*did you mean 'method'"),
        ("exclude: {seed: 1}\nseed: 1", r"every run is excluded"),
        ("grids: [{seeed: 1}]", r"grids, item 1: unknown field 'seeed': did you mean 'seed'"),
        ("grids: []", r"grids: write a list"),
        ("grids: [{grids: []}]", r"grids, item 1: unknown field 'grids'"),
        ("seed: [1", r"line 1: .*"),
        ("a: b: c", r"line 1: "),
        ("\x00", r"grid.yaml"),
        ("? [a, b]\n: 1", r"grid.yaml, line 1: a field's name has to be a word"),
        ("[" * 3000, r"nested too deeply"),
        ("seed: !!python/name:os.system x", r"grid.yaml, line 1: the tag"),
        ("train_size: 2024-02-30", r"train_size=2024-02-30"),
        ("train_size: 1:30", r"train_size=1:30"),
        (f"train_size: {'1' * 5000}", r"line 1: a number of 5,000 digits"),
        (
            "".join(f"{name}: &{name} [{'1, ' * 99}1]\n" for name in ("seed", "train_size", "epochs")),
            r"1,000,000 runs",
        ),
        ("degrees: {price: [%s], target_density: [%s]}" % (("0.1, " * 999,) * 2), r"998,001 runs"),
        ("degrees: {target_density: []}", r"degrees, target_density: the list is empty"),
        ("degrees: 3", r"degrees: write fields of degrees"),
        ("exclude: [{}]", r"exclude, item 1 is empty"),
        ("train_size: true", r"train_size=true: write a number"),
        ("degrees: {target_density: true}", r"target_density=True: .*valid number"),
    ],
)
def test_what_is_wrong_in_a_grid_is_said_in_one_sentence_with_its_place(tmp_path, grid, sentence):
    path = tmp_path / "grid.yaml"
    path.write_text(grid)
    with pytest.raises(InputError, match=sentence) as refused:
        load_grid(path)
    assert "\n" not in str(refused.value)


def test_of_a_grid_the_runs_with_some_values_can_be_taken():
    configs = expand_grid(
        {
            "task": ["reviews", "topics"],
            "seed": [0, 1, 2],
            "grids": [
                {"plan": ["dense", "neighbour(1) | global(cls)"]},
                {"plan": "learned", "degrees": {"sharing": ["head", "layer"]}},
            ],
        }
    )
    left = only(configs, ["task=topics", "seed=0", "seed=2", "plan=neighbour( 1 )|global(cls)"])
    assert [(c.task, c.plan, c.seed) for c in left] == [
        ("topics", "neighbour(1) | global(cls)", seed) for seed in (0, 2)
    ]
    assert {c.degrees.sharing for c in only(configs, ["degrees={sharing: layer}"])} == {"layer"}
    assert only(configs, []) == configs


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("task", r"--only task: write a field and its value"),
        ("taks=reviews", r"--only taks=reviews: unknown field 'taks': did you mean 'task'"),
        ("seed=x", r"--only, seed: seed=x"),
        ("plan=neighbor(1)", r"--only, plan: .*neighbour"),
        ("seed=3", r"no run of the grid has seed=3"),
        ("seed={", r"--only seed=\{, line 1: while parsing"),
    ],
)
def test_values_that_no_run_has_are_refused(wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        only(expand_grid({"seed": [0, 1]}), [wanted])


def test_a_grid_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_grid(tmp_path / "none.yaml")
    (tmp_path / "grid.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_grid(tmp_path / "grid.yaml")


GRIDS = ROOT / "book" / "grids"
AGAIN = GRIDS / "degrees_again.yaml"  # reads files that have to be written first


@pytest.mark.parametrize("grid", sorted({*GRIDS.rglob("*.yaml")} - {AGAIN}), ids=lambda path: path.stem)
def test_the_grids_of_the_book_are_sound(grid, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)  # paths in plans start there
    configs = load_grid(grid)
    (encoder,) = {config.encoder for config in configs}
    if encoder != "minilm":  # these have twelve layers, too, and would have to be fetched
        assert encoder in ("e5", "mpnet")
        small = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 24}
        encoder = save_encoder(tmp_path, BertConfig(**small, intermediate_size=24))
    there = {"task": "reviews", "encoder": encoder}
    assert len(configs) > 1 and len(sweeps.check_runs([c.model_copy(update=there) for c in configs])) > 1


def test_runs_that_differ_in_their_training_alone_are_tried_on_an_encoder_once(small, monkeypatch):
    tried = []
    monkeypatch.setattr(sweeps, "sparsify", lambda *a: tried.append(a) or sparsify(*a))
    grid = {"epochs": [1.0, 2.0], "learning_rate": [1e-4, 2e-4], "batch_size": [4, 8], "eval_size": [3, 6]}
    assert len(sweeps.check_runs(expand_grid(small | grid | {"seed": [0, 1]}))) == 32 and len(tried) == 1
    sweeps.check_runs(expand_grid(small | {"layers": [1, 2], "plan": ["dense", "neighbour(1)"]}))
    assert len(tried) == 5


def test_the_degrees_that_are_used_again_are_those_on_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study("degrees_again").main()
    on_record = {record.name: record for record in recorded("experiments")}
    of_the_task = {r.data_hash for r in on_record.values() if r.config.task == "glue/qnli"}
    for config in load_grid(AGAIN):
        (file,) = parse_plan(config.plan).file_hashes
        hashes = {hashlib.sha256(f"{one} {file}".encode()).hexdigest() for one in of_the_task}
        assert on_record[config.name].data_hash in hashes


def test_recorded_runs_can_be_asked_for_again():
    assert {config.name for config in load_grid("recorded:experiments")} == {
        record.config.name for record in recorded("experiments")
    }
    with pytest.raises(InputError, match="did you mean 'experiments'"):
        load_grid("recorded:experiment")


# ---- a sweep


def test_a_sweep_trains_what_the_store_lacks_and_says_how_far_it_is(small, trained, capsys):
    store = RunStore()
    store.add(record_of(seeds(small, 1)[0]))
    result = sweep(seeds(small, 0, 1, 2, 0), store)
    assert trained.done == [0, 2]
    assert [c.seed for c in result.found] == [1] and [c.seed for c in result.trained] == [0, 2]
    assert {record.config.seed for record in store} == {0, 1, 2}
    found, first, second = capsys.readouterr().err.splitlines()
    assert "3 runs: 1 recorded, 2 to train, about " in found
    assert first.startswith("  [1/2] ") and "accuracy 0.750" in first and first.endswith("(4 s left)")
    assert second.startswith("  [2/2] ") and second.endswith("(0 s left)")
    assert sweep(seeds(small, 0, 1, 2), store).trained == [] and trained.done == [0, 2]


def test_a_run_that_fails_does_not_stop_the_rest_and_its_reason_is_kept_until_it_succeeds(small, trained):
    store = RunStore()
    trained.accidents |= {0: MemoryError("too large\nby far"), 2: InputError("no such thing")}
    result = sweep(seeds(small, 0, 1, 2), store)
    assert trained.done == [1] and result.left == []
    assert {c.seed: why for c, why in result.failed.items()} == {
        0: "MemoryError: too large",
        2: "no such thing",
    }
    kept = {path.stem: json.loads(path.read_text()) for path in (store.folder / "failed").iterdir()}
    assert set(kept) == {config.name for config in result.failed}
    entry = kept[seeds(small, 0)[0].name]
    assert RunConfig(**entry["config"]) == seeds(small, 0)[0]
    assert entry["reason"] == "MemoryError: too large\nby far" and "in finetune" in entry["traceback"]
    assert [record.config.seed for record in store] == [1]
    trained.accidents.clear()
    assert not sweep(seeds(small, 0, 1, 2), store).failed
    assert not list((store.folder / "failed").iterdir())


def test_runs_that_cannot_be_are_refused_before_any_is_trained(small, trained):
    for wrong in ({"plan": "syntax @ 5"}, {"plan": "learned"}, {"task": "file:none.csv"}, {"task": "revews"}):
        configs = [*seeds(small, 0), RunConfig(**small | wrong)]
        with pytest.raises(InputError, match=r"^run '.* seed 0': "):
            sweep(configs)
    assert trained.done == []


def test_what_another_sweep_finished_meanwhile_is_not_trained_again(small, trained):
    store = RunStore()

    class Meanwhile(InlineExecutor):
        def submit(self, *args, **kwargs):
            store.add(record_of(seeds(small, 1)[0]))
            return super().submit(*args, **kwargs)

    result = sweep(seeds(small, 0, 1, 2), store, executor=Meanwhile())
    assert trained.done == [0, 2] and result.left == [] and len(list(store)) == 3


def test_a_folder_of_runs_that_cannot_be_written_is_refused_before_any_is_trained(small, workspace, trained):
    (workspace / "afile").touch()
    with pytest.raises(InputError, match=r"'afile' cannot be written: .*--runs-dir"):
        sweep(seeds(small, 0), RunStore("afile"))
    assert trained.done == []


def test_a_record_that_finds_no_room_is_put_elsewhere(small, trained, tmp_path):
    class Full(RunStore):
        def add(self, record):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"No space left on device.*it is in '.*\.json'") as refused:
        sweep(seeds(small, 0, 1), Full())
    spare = str(refused.value).split("it is in '")[1].split("'")[0]
    assert RunRecord.model_validate_json(Path(spare).read_text()).config.seed == 0
    assert trained.done == [0]


def test_a_cluster_that_is_gone_leaves_the_rest_for_the_next_time(small, trained):
    class Gone(InlineExecutor):
        def submit(self, *args, **kwargs):
            future = super().submit(*args, **kwargs)
            if len(trained.done) < 2:
                return future
            lost = Future()
            lost.cancel()
            lost.set_running_or_notify_cancel()
            return lost

    result = sweep(seeds(small, 0, 1, 2), executor=Gone())
    assert [c.seed for c in result.trained] == [0] and [c.seed for c in result.left] == [1, 2]
    assert result.cut_off and not result.failed and "no longer answers" in str(result)


def test_a_run_that_succeeds_elsewhere_takes_its_reason_along(small, trained):
    store = RunStore()
    trained.accidents[0] = RuntimeError("out of luck")
    assert sweep(seeds(small, 0), store).failed
    store.add(record_of(seeds(small, 0)[0]))
    assert not list((store.folder / "failed").iterdir())


def test_a_worker_with_other_data_is_a_failure(small, workspace, trained):
    class Changes(InlineExecutor):
        def submit(self, function, config, folders, scratch, data_hash, **how):
            return super().submit(function, config, folders, scratch, "other", **how)

    (why,) = sweep(seeds(small, 0), executor=Changes()).failed.values()
    assert "other data" in why and trained.done == []


def test_an_interrupted_sweep_keeps_what_was_finished(small, trained):
    store = RunStore()
    trained.accidents[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sweep(seeds(small, 0, 1, 2), store)
    assert [record.config.seed for record in store] == [0]
    assert not (store.folder / "failed").exists()


def test_checkpoints_that_another_process_writes_are_left_alone(tmp_path):
    folder = tmp_path / "scratch"
    with unfinished.checkpoints(folder) as mine:
        assert mine == folder
        with unfinished.checkpoints(folder) as other:
            assert other != folder and other.is_dir()
        assert folder.is_dir() and not other.exists()
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    with unfinished.checkpoints(tmp_path / "file" / "scratch") as elsewhere:
        assert elsewhere.is_dir()


def scratch_of(config: RunConfig, store: RunStore) -> Path:
    return store.scratch(config, input_hash(config)).absolute()


def test_a_run_that_another_sweep_works_on_is_left_to_it(small, trained, monkeypatch):
    monkeypatch.setattr(sweeps, "_LOOK_AGAIN", 0.05)
    store, (theirs, own) = RunStore(), seeds(small, 0, 1)
    done: dict[str, sweeps.Sweep] = {}
    with unfinished.claim(scratch_of(theirs, store)):
        ours = threading.Thread(target=lambda: done.update(ours=sweep([theirs, own], store)))
        ours.start()
        while not store.find(own):
            time.sleep(0.02)
        assert ours.is_alive() and trained.done == [1]
        store.add(record_of(theirs))
    ours.join(10)
    assert trained.done == [1]
    assert [c.seed for c in done["ours"].trained] == [1] and [c.seed for c in done["ours"].found] == [0]
    assert not (store.folder / "unfinished").exists()


def test_a_run_that_another_sweep_gave_up_is_trained(small, trained, monkeypatch):
    monkeypatch.setattr(sweeps, "_LOOK_AGAIN", 0.05)
    store, (theirs,) = RunStore(), seeds(small, 0)
    scratch = scratch_of(theirs, store)
    asked, submit = [], sweeps._submit
    monkeypatch.setattr(sweeps, "_submit", lambda *given: asked.append(0) or submit(*given))
    with unfinished.checkpoints(scratch):  # a worker whose client is gone
        with pytest.raises(InUse):
            sweeps.train(theirs.model_dump_json(), Folders.named(), scratch, input_hash(theirs))
        ours = threading.Thread(target=lambda: sweep([theirs], store))
        ours.start()
        while not asked:
            time.sleep(0.02)
        time.sleep(0.2)
        assert trained.done == [] and len(asked) <= 6, "it is asked for again and again without a pause"
    ours.join(10)
    assert trained.done == [0] and store.find(theirs)


def test_two_sweeps_at_once_train_each_run_once_and_count_it_once(small, trained, monkeypatch):
    monkeypatch.setattr(sweeps, "_LOOK_AGAIN", 0.02)
    configs, store = seeds(small, *range(6)), RunStore()
    results: list[sweeps.Sweep] = []
    several = [threading.Thread(target=lambda: results.append(sweep(configs, store))) for _ in range(3)]
    for each in several:
        each.start()
    for each in several:
        each.join(30)
    assert sorted(trained.done) == list(range(6)) and len(results) == 3
    assert sum(len(result.trained) for result in results) == 6
    assert all(len(result.trained) + len(result.found) == 6 for result in results)


def test_what_a_worker_finished_for_a_client_that_is_gone_is_found(small, trained):
    store, (config,) = RunStore(), seeds(small, 0)
    scratch = scratch_of(config, store)
    (scratch / "checkpoint-3").mkdir(parents=True)
    sent = sweeps.train(config.model_dump_json(), Folders.named(), scratch, input_hash(config))
    assert not (scratch / "checkpoint-3").exists() and list(store) == []
    result = sweep([config], store)
    assert trained.done == [0] and result.found == [config] and not result.trained
    assert store.find(config) == RunRecord.model_validate_json(sent) and not scratch.exists()


def test_a_worker_without_a_common_folder_trains_what_it_is_asked_for_again(small, trained, tmp_path):
    (config,) = seeds(small, 0)
    for _ in range(2):  # whoever asks has removed the first record
        sweeps.train(config.model_dump_json(), Folders.named(), tmp_path / "own", input_hash(config))
    assert trained.done == [0, 0]


def test_a_record_left_by_a_worker_that_is_torn_or_of_other_data_is_not_taken(small, trained):
    store, (config,) = RunStore(), seeds(small, 0)
    scratch = scratch_of(config, store)
    scratch.mkdir(parents=True)
    for text in ("", "{", record_of(config, data_hash="other").model_dump_json()):
        (scratch / "record.json").write_text(text)
        assert unfinished.left(scratch, config.name, input_hash(config)) is None
    assert sweep([config], store).trained == [config]


def test_cleaning_removes_what_nobody_works_on_and_keeps_records(small, trained, workspace):
    store, (given_up, busy, finished) = RunStore(), seeds(small, 0, 1, 2)
    for config in (given_up, busy):
        (scratch_of(config, store) / "checkpoint-3").mkdir(parents=True)
        (scratch_of(config, store) / "checkpoint-3" / "weights").write_bytes(bytes(2**20))
    sweeps.train(
        finished.model_dump_json(), Folders.named(), scratch_of(finished, store), input_hash(finished)
    )
    (store.folder / "unfinished" / "stale.lock").touch()
    with unfinished.checkpoints(scratch_of(busy, store)):
        assert "3 (1.0 MiB)" in command("clean").stdout
        assert [path.name for path in (store.folder / "unfinished").iterdir()] == [
            scratch_of(busy, store).name
        ]
    assert [record.config.seed for record in store] == [2]
    command("clean")
    assert not list((store.folder / "unfinished").iterdir())


def test_checkpoints_stay_when_a_run_is_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished.checkpoints(tmp_path / "scratch") as folder:
        (folder / "checkpoint-2").mkdir()
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]


def test_a_run_that_fails_leaves_neither_lock_nor_folder(small, trained):
    store = RunStore()
    trained.accidents[0] = InputError("no")
    sweep(seeds(small, 0), store)
    with pytest.raises(InputError):
        sweeps.find_or_train(*seeds(small, 0), store)
    assert not (store.folder / "unfinished").exists()


# ---- estimates and budgets


@pytest.mark.parametrize("speed", [0.0, float("nan")])
def test_a_run_that_does_not_know_its_speed_is_no_measure_for_others(small, speed):
    known = record_of(RunConfig(**small, seed=2))
    for speeds in ({"train": speed, "evaluate": 24.0}, {"evaluate": 24.0, "train": speed}):
        unknown = record_of(RunConfig(**small, seed=1), examples_per_second=speeds)
        assert Estimates([unknown]).seconds(RunConfig(**small)) is None
        both = Estimates([unknown, known]).seconds(RunConfig(**small))
        assert both == Estimates([known]).seconds(RunConfig(**small))


def test_there_is_a_worker_for_each_gpu(monkeypatch):
    for gpus, workers in ((3, 3), (1, 1)):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        assert sweeps.default_workers() == workers
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert 1 <= sweeps.default_workers() <= 4


def test_time_is_rows_times_length(small):
    known = RunConfig(**small)
    estimates = Estimates([record_of(known)], device_name())
    evaluation = 12 / 24
    assert estimates.seconds(known.model_copy(update={"seed": 5})) == pytest.approx(1 + 32 / 16 + evaluation)
    more = known.model_copy(update={"train_size": 16, "epochs": 3.0, "eval_size": 6})
    assert estimates.seconds(more) == pytest.approx(1 + 48 / 16 + evaluation / 2)
    longer = known.model_copy(update={"max_length": 64, "plan": "neighbour(1)"})
    assert estimates.seconds(longer) == pytest.approx(1 + 2 * (2 + evaluation))
    assert estimates.seconds(known.model_copy(update={"encoder": "minilm"})) is None
    assert Estimates([record_of(known)], "another device").seconds(known) is None
    assert Estimates([record_of(known)], None).seconds(known) == estimates.seconds(known)


def test_the_nearest_and_latest_records_count(small):
    known, masked = RunConfig(**small), RunConfig(**small | {"plan": "neighbour(1)"})
    slow = record_of(masked, examples_per_second={"train": 1.0, "evaluate": 24.0})
    estimates = Estimates([record_of(known), slow], device_name())
    assert estimates.seconds(known) == pytest.approx(3.5) and estimates.seconds(masked) == pytest.approx(33.5)
    for _ in range(5):
        estimates.add(record_of(known, examples_per_second={"train": 2.0, "evaluate": 24.0}))
    assert estimates.seconds(known) == pytest.approx(17.5)
    gone = record_of(known).model_copy(update={"config": known.model_copy(update={"task": "file:gone.csv"})})
    estimates.add(gone.model_copy(update={"config": gone.config.model_copy(update={"max_length": None})}))


def test_a_total_is_shared_by_workers_and_unknown_runs_take_the_mean(small):
    known = RunConfig(**small)
    estimates = Estimates([record_of(known)], device_name())
    unknown = known.model_copy(update={"encoder": "minilm"})
    assert estimates.total([known] * 4, workers=2) == pytest.approx(7)
    assert estimates.total([known, unknown]) == pytest.approx(7)
    assert estimates.total([unknown]) is None and estimates.total([]) == 0


def test_no_run_is_started_that_would_end_after_the_budget(small, trained, monkeypatch):
    clock = iter(range(0, 10_000, 1))
    monkeypatch.setattr(sweeps.time, "monotonic", lambda: 0.5 * next(clock))
    store = RunStore()
    store.add(record_of(seeds(small, 9)[0]))  # 3.5 s a run
    long = RunConfig(**small | {"epochs": 50.0}, seed=7)
    result = sweep([*seeds(small, 0), long, *seeds(small, 1, 2, 3, 4, 5)], store, budget=5.5)
    assert 0 < len(trained.done) < 6 and 7 not in trained.done
    assert len(result.left) == 7 - len(trained.done) and long in result.left and not result.failed
    assert "same command goes on" in str(result)
    assert sweep(result.left, store, budget=1e9).left == []


def test_without_a_record_a_budget_starts_the_first_run_and_learns_from_it(small, trained):
    result = sweep(seeds(small, 0, 1, 2), budget=3.0)  # less than the 3.5 s of a run
    assert trained.done == [0] and len(result.left) == 2


# ---- the command


def test_a_dry_run_prints_the_runs_and_trains_nothing(small, workspace, trained):
    grid = write_grid(workspace, **small | {"seed": [0, 1], "plan": ["dense", "neighbour(1) @ late"]})
    nothing = call(grid, "--dry-run").stdout
    assert "4 runs, 4 to train" in nothing and "no recorded run tells" in nothing
    RunStore().add(record_of(seeds(small, 0)[0]))
    said = call(grid, "--dry-run").stdout
    assert "4 runs, 3 to train" in said and "about 10 s, by records made on" in said
    assert all(config.name in said for config in load_grid(grid))
    answer = json.loads(call(grid, "--dry-run", "--json").stdout)
    assert [run["found"] for run in answer["runs"]] == [True, False, False, False]
    assert answer["seconds"] == pytest.approx(10.5) and answer["measured_on"] == [device_name()]
    assert RunConfig(**answer["runs"][3]["config"]) == load_grid(grid)[3]
    part = call(grid, "--dry-run", "--only", "seed=1", "--only", "plan=dense").stdout
    assert "1 runs, 1 to train" in part
    assert trained.done == [] and len(list(RunStore())) == 1


def test_the_command_lists_what_failed_at_the_end_and_exits_with_1(small, workspace, trained):
    grid = write_grid(workspace, **small | {"seed": [0, 1]})
    trained.accidents[0] = RuntimeError("out of luck")
    result = call(grid, "--budget", "1h30m", code=1)
    first, second = result.stdout.splitlines()
    assert first == "2 runs: 0 found, 1 trained, 1 failed, 0 left"
    assert second.startswith("failed: ") and second.endswith("RuntimeError: out of luck")
    trained.accidents.clear()
    answer = json.loads(call(grid, "--json").stdout)
    assert (len(answer["found"]), len(answer["trained"]), answer["failed"]) == (1, 1, {})


def test_ctrl_c_says_that_the_same_command_goes_on(small, workspace, trained):
    trained.accidents[1] = KeyboardInterrupt()
    result = call(write_grid(workspace, **small | {"seed": [0, 1]}), code=130)
    assert "same command goes on" in result.stderr and len(list(RunStore())) == 1


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--executor", "slurm"], "unknown executor 'slurm'"),
        (["--workers", 2], "--workers goes with --executor processes"),
        (["--scheduler", "tcp://here:1"], "--scheduler goes with --executor dask"),
        (["--executor", "dask"], "needs --scheduler"),
        (["--budget", "2"], "--budget 2: write a time with its unit"),
        (["--budget", "soon"], "--budget soon"),
        (["--budget", "-1h"], "--budget -1h"),
        (["--budget", "1.5.h"], "--budget 1.5.h"),
        (["--budget", ""], "--budget : write"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(small, workspace, trained, options, sentence):
    result = call(write_grid(workspace, **small), *options, code=2)
    (line,) = result.stderr.splitlines()
    assert sentence in line and trained.done == []


@pytest.mark.parametrize(
    "text, seconds", [("2h", 7200), ("90min", 5400), ("1h30m", 5400), ("1.5 H", 5400), ("1m 30s", 90)]
)
def test_a_budget_is_a_time_with_units(text, seconds):
    assert duration(text) == seconds


def test_dask_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install '.\[cluster\]'"), open_executor("dask"):
        pass


# ---- executors


@pytest.mark.slow
def test_the_death_of_a_process_ends_its_own_run_alone():
    with open_executor("processes", 2) as executor:
        assert (executor.workers, executor.threads) == (2, max(1, len(os.sched_getaffinity(0)) // 2))
        long, death = executor.submit(time.sleep, 1.0), executor.submit(os._exit, 9)
        assert isinstance(death.exception(), WorkerDied) and "out of memory" in str(death.exception())
        assert long.exception() is None and executor.submit(os.getpid).result() != os.getpid()
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == str(executor.threads)
        assert isinstance(executor.submit(int, "x").exception(), ValueError)
        running = executor.submit(time.sleep, 60.0)
        time.sleep(0.3)
    assert wait([running], 10).done


SCRIPT = """
import os, sys, time
from sparsebert.sweeps.executors import open_executor
if __name__ == "__main__":
    with open_executor("processes", 1) as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        executor.submit(time.sleep, 60).result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    started = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    worker = psutil.Process(int(started.stdout.readline()))
    assert worker.is_running()
    if end == signal.SIGINT:
        os.killpg(started.pid, end)  # Ctrl-C reaches every process of a job
    else:
        started.send_signal(end)
    worker.wait(20)
    assert started.wait(20) != 0


OWN_PATTERN = """
import sys
from dataclasses import dataclass

import sparsebert
from sparsebert.patterns import Pattern

@sparsebert.register
@dataclass(frozen=True)
class Ahead(Pattern):
    "Tokens that come later."
    name = "ahead"
    examples = ("ahead(1)",)
    steps: int

    def related(self, batch):
        position = batch.positions
        return (position[:, None, :] - position[:, :, None] == self.steps)[:, None]

if __name__ == "__main__":
    fields = dict(task=sys.argv[1], encoder="tiny", train_size=8, batch_size=8, max_length=32)
    configs = [sparsebert.RunConfig(**fields, plan="ahead(1)", seed=seed) for seed in (0, 1)]
    for record in sparsebert.run_all(configs, workers=int(sys.argv[2])):
        print(record.config.plan, record.density < 0.5, record.data_hash)
"""


@pytest.mark.slow
def test_a_pattern_of_a_notebook_trains_in_two_processes(small, workspace):
    (workspace / "own.py").write_text(OWN_PATTERN)
    command = [sys.executable, "own.py", small["task"]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "2"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and first.startswith("ahead(1) True ")
    assert input_hash(RunConfig(**small)) not in first  # since the pattern's source is part of what it reads
    changed = OWN_PATTERN.replace("== self.steps", "== 2 * self.steps")
    (workspace / "own.py").write_text(changed)
    again = subprocess.run([*command, "1"], env=environment, capture_output=True, text=True)
    assert again.stdout.splitlines()[0] != first and "2 to train" in again.stderr


def documented_script() -> str:
    """The Python code of the book's page on clusters."""
    return (ROOT / "book" / "many_runs.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.slow
def test_twelve_runs_on_a_cluster_whose_worker_is_killed_leave_twelve_records(small, workspace, monkeypatch):
    distributed = pytest.importorskip("distributed")
    jobqueue = pytest.importorskip("dask_jobqueue")
    grid = write_grid(
        workspace, **small | {"plan": ["dense", "neighbour(1)"], "seed": [0, 1], "train_size": [8, 16, 24]}
    )
    killed, slurm = [], jobqueue.SLURMCluster
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which importing dask_jobqueue replaces

    class Local(distributed.LocalCluster):
        """What stands for SLURM: two processes here, of which one is killed when three runs are done."""

        def __init__(self, **asked):
            with slurm(**asked, scheduler_options={"dashboard_address": None}) as real:
                assert "--gres=gpu:1" in real.job_script()
            quietly = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
            super().__init__(n_workers=2, threads_per_worker=1, **quietly)

        def scale(self, n=None, jobs=None):
            if jobs is None:  # at its end a cluster scales itself down
                return super().scale(n)
            threading.Thread(target=self.kill_one, daemon=True).start()

        def kill_one(self):
            with distributed.Client(self, set_as_default=False) as client:
                pids = client.run(os.getpid)  # asked for now, since a busy worker takes its time to answer
                busy: list[str] = []
                while not busy or len(list(RunStore())) < 3:
                    busy = [worker for worker, tasks in client.processing().items() if tasks]
                    time.sleep(0.02)
                os.kill(pids[busy[0]], signal.SIGKILL)
                killed.append(pids[busy[0]])

    monkeypatch.setattr(jobqueue, "SLURMCluster", Local)
    names: dict[str, object] = {}
    exec(documented_script(), names)
    with names["cluster"] as cluster:
        assert len(killed) == 1 and not psutil.pid_exists(killed[0])
        records = list(RunStore())
        assert [r.name for r in records] == sorted(config.name for config in load_grid(grid))
        assert len(records) == 12 and not (RunStore().folder / "failed").exists()
        again = call(grid, "--executor", "dask", "--scheduler", cluster.scheduler_address, "--json")
    assert len(json.loads(again.stdout)["found"]) == 12


def test_a_scheduler_out_of_reach_is_named(monkeypatch):
    distributed = pytest.importorskip("distributed")

    def refuse(*_, **__):
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at .tcp://here:1. .*Timed out"):
        open_executor("dask", scheduler="tcp://here:1").__enter__()


# ---- one run by several processes


@pytest.fixture
def without_dropout(workspace):
    """An encoder of 2 layers that gives the same result whichever rows are computed together."""
    set_seed(0)
    model = load_classifier("tiny", ["good", "bad"])
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(workspace / "encoder")
    load_tokenizer("tiny").save_pretrained(workspace / "encoder")
    return {"encoder": str(workspace / "encoder")}


@pytest.mark.slow
def test_two_processes_of_accelerate_make_the_run_of_one(small, workspace, without_dropout):
    fields = small | without_dropout | {"epochs": 2, "plan": "neighbour(1) | global(cls) @ late"}
    options = [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launched = subprocess.run(
        [*launcher, "--main_process_port", "0", "-m", "sparsebert", "finetune", *options, "--json"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr
    pair = RunRecord.model_validate_json(launched.stdout)  # printed once
    assert list(RunStore()) == [pair] and pair.device.startswith("2 x ")
    alone = finetune(RunConfig(**fields))
    assert pair.metrics == alone.metrics and pair.steps == alone.steps == 8
    assert pair.density_per_layer == alone.density_per_layer
    assert pair.padded_density == alone.padded_density
    assert pair.train_loss == pytest.approx(alone.train_loss, rel=1e-4)
    assert pair.train_rows == 32 and pair.data_hash == alone.data_hash


def test_a_batch_that_processes_cannot_share_is_refused(small, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 3)
    with pytest.raises(InputError, match=r"batch_size=8 can't be shared by 3 processes; write a multiple"):
        finetune(RunConfig(**small))


def test_degrees_are_refused_to_several_processes(small, monkeypatch):
    module = sys.modules["sparsebert.training.finetuning"]
    several = types.SimpleNamespace(num_processes=3)
    monkeypatch.setattr(module, "processes", lambda: several)
    with pytest.raises(InputError, match="degrees are learned by one process"):
        finetune(RunConfig(**small | {"plan": "learned", "degrees": {"target_density": 0.5}}))
