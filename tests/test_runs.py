from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsebert.errors import InputError
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
        "seconds": {"train": 1.5},
        "examples_per_second": {"train": 5.0},
        "peak_memory_mib": 100.0,
        "device": "a processor",
        "precision": "fp32",
        "versions": {"python": "3.11"},
        "commit": None,
        "data_hash": "abc",
        "finished": "2024-01-01T00:00:00+00:00",
    }
    return RunRecord(**fields | changes)


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
        ("kernel", "dense"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence_that_names_it(field, value):
    with pytest.raises(InputError) as refused:
        RunConfig.checked(**{field: value})
    sentence = str(refused.value)
    assert sentence.startswith(f"{field}={value}: ") and "\n" not in sentence


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
    record = record_of(RunConfig(), train_loss=math.nan, metrics={"pearson": math.nan, "spearman": math.inf})
    path = store.add(record)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = store.find(RunConfig())
    assert math.isnan(found.train_loss) and math.isnan(found.metrics["pearson"])
    assert found.metrics["spearman"] == math.inf
    assert capsys.readouterr().err == ""


def assert_set_aside(store, path, config, capsys):
    assert store.find(config, "abc") is None
    assert not path.exists() and path.with_suffix(".json.aside").exists()
    assert path.name in (warning := capsys.readouterr().err) and "set aside" in warning
    assert list(store) == [] and store.find(config) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_torn_record_is_set_aside_with_a_warning(store, capsys, share):
    path = store.add(record_of(RunConfig()))
    text = path.read_text().rstrip("\n")
    path.write_text(text[: int(len(text) * share)])
    assert_set_aside(store, path, RunConfig(), capsys)


def test_what_another_process_put_in_place_of_a_torn_record_stays(store, capsys):
    path = store.add(record_of(RunConfig()))
    store._set_aside(path, b"the torn record that was read before", "it is torn")
    assert store.find(RunConfig()) and [file.name for file in store.folder.iterdir()] == [path.name]
    path.unlink()
    store._set_aside(path, b"", "it is torn")  # another process did
    assert capsys.readouterr().err == ""


def test_a_file_that_is_not_text_is_set_aside(store, capsys):
    path = store.add(record_of(RunConfig()))
    path.write_bytes(b"\xff\xfe\x00")
    assert_set_aside(store, path, RunConfig(), capsys)


def test_a_record_under_the_name_of_another_run_is_set_aside(store, capsys):
    foreign = store.add(record_of(RunConfig(seed=1)))
    path = foreign.with_name(f"{RunConfig().name}.json")
    os.rename(foreign, path)
    assert_set_aside(store, path, RunConfig(), capsys)


def test_a_record_whose_config_was_edited_is_set_aside(store, capsys):
    path = store.add(record_of(RunConfig()))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5').replace('"seed":0', '"seed":5'))
    assert_set_aside(store, path, RunConfig(), capsys)


def test_a_record_of_other_data_is_not_found_and_set_aside_only_for_a_new_one(store, capsys):
    yesterday = record_of(RunConfig(), data_hash="what was in the file yesterday")
    path = store.add(yesterday)
    assert store.find(RunConfig(), "abc") is None and store.find(RunConfig()) == yesterday
    assert capsys.readouterr().err == "", "to look for a run moves nothing"
    for new in (record_of(RunConfig()), yesterday, record_of(RunConfig())):
        store.add(new)
        assert store.find(RunConfig(), new.data_hash) == new
        assert "set aside" in capsys.readouterr().err
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
