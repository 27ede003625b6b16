from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsebert.errors import InputError
from sparsebert.registry import METHODS
from sparsebert.training.naming import run_name
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig, RunRecord, RunStore


def record_of(config: RunConfig, **changes: object) -> RunRecord:
    fields = {
        "name": config.name,
        "config": config,
        "metrics": {"accuracy": 0.75},
        "density": 0.5,
        "density_per_layer": [0.25, 0.75],
        "padded_density": 0.125,
        "padded_density_per_layer": [0.0625, 0.1875],
        "train_rows": 8,
        "eval_rows": 4,
        "steps": 2,
        "train_loss": 0.1 + 0.2,
        "seconds": {"prepare": 0.5, "train": 1.5, "evaluate": 0.25},
        "examples_per_second": {"train": 5.0, "evaluate": 16.0},
        "peak_memory_mib": 100.0,
        "device": "a processor",
        "precision": "fp32",
        "versions": {"python": "3.11"},
        "commit": None,
        "data_hash": "abc",
        "finished": "2024-01-01T00:00:00+00:00",
    }
    return RunRecord(**fields | changes)


def input_hash(config: RunConfig) -> str:
    return Run.of(config).data_hash


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


# ---- configs


def test_equal_configs_have_one_name_and_others_another():
    assert RunConfig().name == RunConfig(task="reviews", seed=0, epochs=1).name
    others = [RunConfig(seed=1), RunConfig(plan="neighbour(1)"), RunConfig(train_size=8), RunConfig(epochs=2)]
    assert len({config.name for config in (RunConfig(), *others)}) == 5


def test_the_way_a_plan_is_written_does_not_change_the_name():
    tidy = RunConfig(plan="neighbour(2) | global(cls) @ late")
    untidy = RunConfig(plan="  neighbour( 2 )|global(cls)@late")
    assert untidy.plan == tidy.plan == "neighbour(2) | global(cls) @ late"
    assert untidy.name == tidy.name


def test_text_from_the_command_line_gives_the_same_config_as_numbers():
    typed = RunConfig.checked(train_size="32", learning_rate="1e-3", epochs="2")
    assert typed == RunConfig(train_size=32, learning_rate=0.001, epochs=2)


def test_an_unknown_field_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown field of a run 'trainsize': did you mean 'train_size'"):
        RunConfig.checked(trainsize=3)


@pytest.mark.parametrize(
    "field, value",
    [
        ("train_size", 0),
        ("train_size", "many"),
        ("eval_size", -1),
        ("epochs", 0),
        ("epochs", "nan"),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", "inf"),
        ("max_length", 3),
        ("max_length", 32769),
        ("seed", -1),
        ("seed", 2**32),
        ("precision", "fp8"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence_that_names_it(field, value):
    with pytest.raises(InputError) as refused:
        RunConfig.checked(**{field: value})
    sentence = str(refused.value)
    assert sentence.startswith(f"{field}={value}: ") and "\n" not in sentence


def test_an_unknown_kernel_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="unknown kernel 'bandd': did you mean 'banded'"):
        RunConfig.checked(kernel="bandd")


@pytest.mark.parametrize("plan", ["neighbor(2)", "neighbour(2) @ lat", "neighbour(2", "neighbour(-1)"])
def test_a_wrong_plan_is_refused_by_the_parsers_own_sentence(plan):
    with pytest.raises(InputError) as refused:
        RunConfig.checked(plan=plan)
    assert "\n" not in str(refused.value) and "validation error" not in str(refused.value)


@pytest.mark.parametrize("encoder, answer", [("minlm", "did you mean 'minilm'"), ("a b", "nor a folder")])
def test_an_encoder_that_cannot_exist_is_refused(encoder, answer):
    with pytest.raises(InputError, match=answer):
        RunConfig.checked(encoder=encoder)


@given(st.integers(0, 2**32 - 1), st.floats(1e-9, 1), st.one_of(st.none(), st.integers(1, 10**9)))
def test_a_config_read_back_from_json_is_the_same(seed, learning_rate, size):
    config = RunConfig(seed=seed, learning_rate=learning_rate, train_size=size)
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config and again.name == config.name


# ---- the store


def test_a_record_is_found_again_as_it_was(store):
    config = RunConfig(plan="neighbour(1) @ 0; dense @ 1")
    record = record_of(config)
    path = store.add(record)
    assert path.name == f"{config.name}.json"
    assert store.find(config) == store.find(config, "abc") == record
    assert list(store) == [record]
    assert store.find(RunConfig(seed=1)) is None


def test_a_store_without_a_folder_is_empty(store):
    assert list(store) == [] and store.find(RunConfig()) is None


def test_a_loss_that_is_not_a_number_survives_the_file(store, capsys):
    record = record_of(RunConfig(), train_loss=math.nan, metrics={"pearson": math.nan, "spearman": 0.5})
    path = store.add(record)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = store.find(RunConfig())
    assert math.isnan(found.train_loss) and math.isnan(found.metrics["pearson"])
    assert capsys.readouterr().err == ""


def assert_passed_over(store, path, config, capsys, why):
    before = path.read_bytes()
    assert store.find(config, "abc") is None and list(store) == []
    assert f"the record {path.name} is passed over: " in (warning := capsys.readouterr().err)
    assert why in warning and warning.count("\n") == 1, "said once, and nothing is moved by reading"
    assert path.read_bytes() == before
    assert [file.name for file in store.folder.iterdir()] == [path.name]
    store.add(record_of(config))
    assert store.find(config) == record_of(config)
    assert f"moved to {config.name}.json.aside, since " in capsys.readouterr().err
    assert path.with_suffix(".json.aside").read_bytes() == before


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_record_is_passed_over_and_moved_aside_for_a_new_one(store, capsys, share):
    path = store.add(record_of(RunConfig()))
    text = path.read_text().rstrip("\n")
    path.write_text(text[: int(len(text) * share)])
    assert_passed_over(store, path, RunConfig(), capsys, "it is truncated")


def test_what_another_process_put_in_place_of_a_truncated_record_stays(store, capsys):
    path = store.add(record_of(RunConfig()))
    store._move_aside(path, b"the truncated record that was read before", "it is truncated")
    assert store.find(RunConfig()) and [file.name for file in store.folder.iterdir()] == [path.name]
    path.unlink()
    store._move_aside(path, b"", "it is truncated")  # another process did
    assert capsys.readouterr().err == ""


def test_a_file_that_is_not_text_is_passed_over(store, capsys):
    path = store.add(record_of(RunConfig()))
    path.write_bytes(b"\xff\xfe\x00")
    assert_passed_over(store, path, RunConfig(), capsys, "it is truncated, or no JSON")


def test_a_record_whose_config_was_edited_is_passed_over(store, capsys):
    path = store.add(record_of(RunConfig()))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5').replace('"seed":0', '"seed":5'))
    assert_passed_over(store, path, RunConfig(), capsys, "is not the hash of its config")


def test_a_record_under_the_name_of_another_run_is_passed_over(store, capsys):
    foreign = store.add(record_of(RunConfig(seed=1)))
    path = foreign.with_name(f"{RunConfig().name}.json")
    os.rename(foreign, path)
    assert store.find(RunConfig()) is None and list(store) == []
    assert "its name is that of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 99}, "newer version of sparsebert (schema 99, and this one reads up to 2)"),
        ({"carbon": 1.0}, "the field 'carbon', which only a newer version knows"),
    ],
)
def test_a_record_of_a_newer_version_says_so(store, capsys, change, why):
    path = store.add(record_of(RunConfig()))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert list(store) == [] and path.exists()
    assert why in capsys.readouterr().err


def test_a_record_of_other_data_is_not_found_and_moved_aside_only_for_a_new_one(store, capsys):
    yesterday = record_of(RunConfig(), data_hash="what was in the file yesterday")
    path = store.add(yesterday)
    assert store.find(RunConfig(), "abc") is None and store.find(RunConfig()) == yesterday
    assert capsys.readouterr().err == "", "looking for a run moves nothing"
    for new in (record_of(RunConfig()), yesterday, record_of(RunConfig())):
        store.add(new)
        assert store.find(RunConfig(), new.data_hash) == new
        assert "was moved to" in capsys.readouterr().err
    asides = sorted(path.parent.glob("*.aside*"))
    assert [aside.name.split(".", 1)[1] for aside in asides] == ["json.aside", "json.aside-2", "json.aside-3"]
    kept = [RunRecord.model_validate_json(aside.read_text()).data_hash for aside in asides]
    assert kept == [yesterday.data_hash, "abc", yesterday.data_hash]


def test_a_record_stays_readable_where_its_encoder_is_not(store, tmp_path, monkeypatch):
    (tmp_path / "models" / "mine" / "v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = RunConfig(encoder="models/mine/v1")
    store.add(record_of(config))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [record.config for record in store] == [config]
    with pytest.raises(ValueError, match="nor a folder that exists"):
        RunConfig(encoder="models/mine/v1")


def test_records_are_as_readable_for_others_as_files_usually_are(store):
    path = store.add(record_of(RunConfig()))
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("folder", ["afile", "afile/below", "/proc/nope"])
def test_a_folder_that_cannot_hold_runs_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").touch()
    store = RunStore(folder)
    assert store.find(RunConfig()) is None and list(store) == []
    with pytest.raises(InputError, match=r"cannot be written: .*; give another --runs-dir"):
        store.check_writable()


def test_a_write_that_fails_leaves_the_store_as_it_was(store, monkeypatch, capsys):
    before = record_of(RunConfig())
    store.add(before)

    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            store.add(record_of(RunConfig(), train_loss=9.0))
        with pytest.raises(OSError, match="no space"):
            store.add(record_of(RunConfig(seed=1)))
    assert list(store) == [before]
    assert store.find(RunConfig(seed=1)) is None
    assert capsys.readouterr().err == ""


def test_other_data_have_other_checkpoints(store):
    config = RunConfig()
    assert store.scratch(config, "a" * 64) != store.scratch(config, "b" * 64)
    assert store.scratch(config, "a" * 64) == store.scratch(RunConfig(), "a" * 64)


# ---- names, labels and earlier versions


def test_a_name_is_the_hash_of_what_differs_from_the_defaults():
    assert RunConfig().asked == {} and RunConfig().name == run_name({})
    config = RunConfig(plan="learned", degrees={"price": 0.1}, epochs=1)
    assert config.asked == {"plan": "learned", "degrees": {"price": 0.1}}
    assert RunConfig(degrees={}).asked == {"degrees": {}}
    assert RunConfig(degrees={}).name != RunConfig().name == RunConfig(degrees=None).name
    assert RunConfig().name == "ef1424cb5c9d0ebc", "names stand on people's disks"


def test_a_new_field_with_its_old_meaning_as_default_changes_no_name(store):
    class Later(RunConfig):
        temperature: float = 1.0

    old = RunConfig(plan="neighbour(1)", degrees={"method": "span"})
    same = Later(**old.model_dump())
    assert same.name == old.name and same.former_names == old.former_names != []
    assert Later(**old.model_dump(), temperature=2).name != old.name
    assert Later(**old.model_dump(), temperature=2).former_names == []
    store.add(record_of(old))
    assert Later.model_validate_json(old.model_dump_json()) == same


def test_a_change_to_a_method_changes_the_names_of_its_runs_alone(monkeypatch):
    spans, others = RunConfig(degrees={"method": "span"}), RunConfig(degrees={"method": "gates"})
    before = (spans.name, others.name)
    monkeypatch.setattr(METHODS["span"], "revision", 2)
    assert spans.name != before[0] and others.name == before[1]
    assert spans.former_names == [] and others.former_names
    old = record_of(spans, name=before[0], revision=1)
    assert old.name != spans.name, "it stays readable, but isn't found as today's run"


def test_labels_are_kept_and_change_neither_name_nor_equality(store):
    plain, labelled = RunConfig(), RunConfig(labels={"treatment": "named heads", "density": 0.1})
    assert labelled == plain and hash(labelled) == hash(plain) and labelled.name == plain.name
    store.add(record_of(labelled))
    assert store.find(plain).config.labels == {"density": "0.1", "treatment": "named heads"}
    found = store.find(RunConfig(labels={"for": "a figure"}))
    assert found.config.labels == labelled.labels | {"for": "a figure"}
    assert plain.labelled(labelled.labels).labels == labelled.labels
    with pytest.raises(InputError, match=r"labelled density=0\.1 and density=0\.2; give it one"):
        labelled.labelled({"density": "0.2"})


BOOK = Path(__file__).parent / "records_of_version_1.jsonl"


def of_version_1():
    return [json.loads(line) for line in BOOK.read_text().splitlines()]


@pytest.mark.parametrize("old", of_version_1(), ids=lambda old: old["name"])
def test_a_record_of_version_1_is_found_by_config_and_by_its_old_name(store, old, capsys):
    store.folder.mkdir()
    (store.folder / f"{old['name']}.json").write_text(json.dumps(old, indent=1))
    record = store.named(old["name"])
    assert record.config.former_names == [old["name"]] and record.name == record.config.name
    config = RunConfig(**old["config"] | {"plan": "dense"}).model_copy(update={"plan": old["config"]["plan"]})
    assert store.find(config, old["data_hash"]) == store.named(record.name) == record
    assert list(store) == [record]
    kept = json.loads(record.model_dump_json())
    for part in old.keys() - {"name", "config", "learning"}:
        assert kept[part] == old[part]
    assert kept["config"].items() >= old["config"].items()
    store.add(record)
    assert list(store) == [record] and store.named(old["name"]) == record
    assert len(list(store.folder.iterdir())) == 2, "an older version still finds its own"
    assert capsys.readouterr().err == ""


def test_an_edited_record_of_version_1_is_refused():
    old = of_version_1()[0]
    for wrong in (
        old | {"name": "f" * 16},
        old | {"config": old["config"] | {"seed": 7}},
        old | {"config": {}},
    ):
        with pytest.raises(InputError, match=r"is not the hash of its config|its config lacks fields"):
            RunRecord.read(json.dumps(wrong))


def test_runs_with_what_is_registered_elsewhere_stay_readable(store):
    fields = {"plan": "mine(3) | global(cls)", "kernel": "theirs", "encoder": "gone"}
    config = RunConfig.model_validate_json(json.dumps(fields))
    store.add(record_of(config))
    assert [record.config.plan for record in store] == ["mine(3) | global(cls)"]
    with pytest.raises(InputError, match="unknown"):
        RunConfig.checked(**fields)


@pytest.mark.parametrize(
    "changes",
    [
        *({part: {}} for part in ("seconds", "metrics", "examples_per_second")),
        *({part: value} for part in ("density", "padded_density") for value in (math.nan, -0.5, 0, 1.5)),
        {"density_per_layer": []},
        {"padded_density_per_layer": [0.5, math.nan]},
        {"seconds": {"prepare": 1, "train": math.nan, "evaluate": 1}},
        {"seconds": {"train": 1, "evaluate": 1}},
        {"metrics": {"accuracy": 7.0}},
        {"metrics": {"macro_f1": -0.1}},
        {"metrics": {"pearson": math.inf}},
        {"metrics": {"accuracy<b>": 0.5}},
        {"steps": -1},
        {"peak_memory_mib": math.inf},
        {"device": "a\u202eprocessor"},
        {"data_hash": "`"},
        {"versions": {"python": "![](http://there)"}},
        {"kernels": ["<img src=x onerror=alert(1)>"]},
    ],
    ids=str,
)
def test_a_record_of_what_cannot_be_is_refused(changes):
    fields = json.loads(record_of(RunConfig()).model_dump_json()) | changes
    with pytest.raises(InputError, match=r"it is no record of a run|would be read as markup"):
        RunRecord.read(json.dumps(fields))


@pytest.mark.parametrize("field", ["task", "encoder", "plan", "labels"])
@pytest.mark.parametrize("text", ["a<img src=x>", "`a`", "a\nb", "[a](b)", "a\x00b"])
def test_texts_of_a_config_hold_no_markup(field, text):
    given = {field: {"for": text}} if field == "labels" else {field: text}
    with pytest.raises(InputError):
        RunConfig.checked(**given)
    with pytest.raises(ValueError, match="markup"):
        RunConfig.model_validate_json(json.dumps(given))
