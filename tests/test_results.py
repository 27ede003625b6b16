"""Recorded runs: read, listed, checked, and merged from other machines."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_cli import call, refusal
from test_runs import record_of

from sparsebert.data.rows import Rows
from sparsebert.degrees.methods import Survival
from sparsebert.errors import InputError
from sparsebert.paths import locked
from sparsebert.patterns import Neighbour
from sparsebert.reductions.ltp import Ltp
from sparsebert.registry import METHODS, PATTERNS, REDUCTIONS, register
from sparsebert.study import claims, results
from sparsebert.study.results import provenance, recorded
from sparsebert.training.predictions import Predictions
from sparsebert.training.runs import RunConfig, RunStore

LEARNING = {
    "target_density": 0.3,
    "hard_density": 0.3,
    "survival": [[[0.123456, 0.1]], [[1.0, 0.0]]],
    "degrees": {"max_distance": 2, "kept": [[[1.0, 0.123456]], [[0.0]]], "weights": [[[-0.123456]], [[0.0]]]},
}


def run(seed=0, **changes):
    fields = {name: changes.pop(name) for name in list(changes) if name in RunConfig.model_fields}
    return record_of(RunConfig(seed=seed, **fields), **changes)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project that commands are called from; its folder of recorded runs."""
    (tmp_path / "_config.yml").touch()
    (tmp_path / "notebooks").mkdir()
    folder = tmp_path / "book" / "results"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def write(path, *records):
    path.write_text("".join(results.as_line(record) + "\n" for record in records))
    return path


# ---- reading


def test_chapters_read_one_file_or_all_of_them_with_each_run_once(project):
    write(project / "one.jsonl", run(0), run(1))
    write(project / "two.jsonl", run(1), run(2))
    assert recorded("one") == [run(0), run(1)]
    assert recorded("none") == []
    assert recorded() == [run(0), run(1), run(2)]


def test_claims_are_judged_without_the_chapters_own_runs(project):
    write(project / "one.jsonl", run(0), run(1))
    for name in results.NO_EVIDENCE:
        write(project / f"{name}.jsonl", run(1), run(2))
    assert results.evidence() == [run(0), run(1)]


def test_a_line_keeps_all_but_the_digits_of_learned_arrays():
    record = run(learning=LEARNING, kernels=None, train_loss=float("nan"))
    line = results.as_line(record)
    again = json.loads(line)
    assert again["learning"]["survival"] == [[[0.1235, 0.1]], [[1, 0]]]
    assert again["learning"]["degrees"]["kept"] == [[[1, 0.1235]], [[0]]]
    assert '"kept":[[[1,0.1235]],[[0]]]' in line and "kernels" not in again
    read = type(record).model_validate_json(line)
    assert read.config == record.config and read.metrics == record.metrics
    assert results.as_line(read) == line


# ---- merging


def test_runs_of_other_machines_are_merged_into_one_order(project, tmp_path):
    store = RunStore(tmp_path / "elsewhere")
    for record in (run(1), run(0, plan="neighbour(1)"), run(0)):
        store.add(record)
    (store.folder / "degrees-of-mine.json").write_text("{}")
    other = write(tmp_path / "other.jsonl", run(0), run(2), run(0, task="topics"))
    call("results", "merge", store.folder, other, "--into", "all")
    merged = recorded("all")
    assert [(r.config.task, r.config.plan, r.config.seed) for r in merged] == [
        *(("reviews", "dense", seed) for seed in range(3)),
        ("reviews", "neighbour(1)", 0),
        ("topics", "dense", 0),
    ]
    text = (project / "all.jsonl").read_bytes()
    assert "found again" in call("results", "merge", other, store.folder, "--into", "all").stdout
    assert (project / "all.jsonl").read_bytes() == text
    results.merge([other, store.folder], "another_way")
    assert (project / "another_way.jsonl").read_bytes() == text
    assert sorted(path.name for path in project.iterdir()) == ["all.jsonl", "another_way.jsonl"]


def test_a_run_that_was_made_twice_is_refused_unless_the_newest_is_asked_for(project, tmp_path):
    old, new = run(finished="2024-01-01T00:00:00+00:00"), run(finished="2024-01-02T00:00:00+00:00")
    write(project / "all.jsonl", old)
    again = write(tmp_path / "again.jsonl", new)
    answer = refusal("results", "merge", again, "--into", "all")
    assert "again.jsonl, line 1" in answer and "all.jsonl, line 1" in answer and "--newest" in answer
    assert recorded("all") == [old]
    assert "1 replaced" in call("results", "merge", again, "--into", "all", "--newest").stdout
    assert recorded("all") == [new]
    assert results.merge([write(tmp_path / "old.jsonl", old)], "all", newest=True).replaced == 0
    assert recorded("all") == [new]


def test_torn_and_foreign_records_are_left_out_and_named(project, tmp_path):
    store = RunStore(tmp_path / "elsewhere")
    torn, foreign = store.add(run(0)), store.add(run(1))
    torn.write_text(torn.read_text()[:100])
    os.rename(foreign, store.folder / f"{run(2).name}.json")
    foreign = write(tmp_path / "foreign.jsonl", run(3), run(4).model_copy(update={"name": "0" * 16}))
    result = call("results", "merge", store.folder, foreign, "--into", "all")
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [
        torn.name,
        "foreign.jsonl, line 2",
    ]
    assert {record.config.seed for record in recorded("all")} == {1, 3}
    assert torn.exists()  # the source is only read


def test_lines_of_any_form_are_written_in_one(project, tmp_path):
    record = run(learning=LEARNING, kernels=None)
    fields = json.loads(record.model_dump_json())
    forms = [record.model_dump_json(), json.dumps(fields)]
    for number, text in enumerate(forms):
        (tmp_path / "other.jsonl").write_text(text + "\n")
        results.merge([tmp_path / "other.jsonl"], f"all{number}")
        assert (project / f"all{number}.jsonl").read_text() == results.as_line(record) + "\n"


def test_records_of_version_1_are_merged_and_found_again_by_their_new_names(project):
    source = Path(__file__).parent / "records_of_version_1.jsonl"
    assert results.merge([source], "all").added == 5
    assert results.merge([source], "all").known == 5 and results.check() == []
    for line in source.read_text().splitlines():
        old = json.loads(line)["name"]
        found = results.run_named(old, RunStore(project / "none"))
        assert found.name != old and found == results.run_named(found.name, RunStore(project / "none"))


def test_labels_of_both_records_of_a_run_are_kept(project, tmp_path):
    write(project / "all.jsonl", run(labels={"for": "C4"}))
    other = write(tmp_path / "other.jsonl", run(labels={"treatment": "named heads"}))
    merged = results.merge([other], "all")
    assert (merged.known, merged.replaced, merged.added) == (1, 0, 0)
    assert recorded("all")[0].config.labels == {"for": "C4", "treatment": "named heads"}
    write(other, run(labels={"for": "C5"}))
    with pytest.raises(InputError, match=r"other.jsonl, line 1: one run is labelled for=C4 and for=C5"):
        results.merge([other], "all", newest=True)


def test_two_merges_at_once_lose_nothing(project, tmp_path):
    write(project / "all.jsonl", run(0))
    other = write(tmp_path / "other.jsonl", run(1))
    with ThreadPoolExecutor() as pool:
        with locked(project / ".lock"):  # another merge has read the file, and writes it later
            merging = pool.submit(results.merge, [other], "all")
            with pytest.raises(TimeoutError):
                merging.result(timeout=0.3)
            write(project / "all.jsonl", run(0), run(2))
        assert merging.result(timeout=60).total == 3
    assert [record.config.seed for record in recorded("all")] == [0, 1, 2]
    assert [path.name for path in project.iterdir()] == ["all.jsonl"]


@pytest.mark.parametrize("kind", ["folder", "unreadable"])
def test_a_file_that_cannot_be_read_or_replaced_is_refused_in_one_sentence(project, tmp_path, kind):
    other = write(tmp_path / "other.jsonl", run(1))
    if kind == "folder":
        (project / "all.jsonl").mkdir()
    else:
        (project / "all.jsonl").symlink_to("/proc/self/mem")
    assert "all.jsonl' can't be read" in refusal("results", "merge", other, "--into", "all")
    assert [path.name for path in project.iterdir()] == ["all.jsonl"]


def test_a_file_in_place_that_would_lose_lines_is_not_replaced(project, tmp_path):
    path = write(project / "all.jsonl", run(0))
    path.write_text(path.read_text() + '{"name": "to')
    text = path.read_text()
    assert "all.jsonl, line 2: it is truncated" in refusal("results", "merge", path, "--into", "all")
    assert path.read_text() == text


def test_a_write_that_fails_leaves_the_file_as_it_was(project, tmp_path, monkeypatch):
    path = write(project / "all.jsonl", run(0))

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="can't be written: no space left on device; it is as it was"):
        results.merge([write(tmp_path / "more.jsonl", run(1))], "all")
    assert recorded("all") == [run(0)] and list(project.iterdir()) == [path]


@pytest.mark.parametrize(
    ("files", "into", "answer"),
    [
        (["nowhere"], "all", "neither a folder"),
        (["."], "all", "no runs in"),
        (["."], "../all", "--into ../all: write a name"),
    ],
)
def test_wrong_sources_and_names_are_refused(project, files, into, answer):
    assert answer in refusal("results", "merge", *files, "--into", into)
    assert list(project.iterdir()) == []


def test_outside_of_a_project_there_is_nothing_to_merge_into(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsebert.study.results.project_root", lambda: None)
    assert "inside it" in refusal("results", "check")
    assert recorded("degrees") == []


# ---- checking and listing


def test_sound_results_have_no_findings(project):
    assert "nothing is recorded" in call("results", "check").stdout
    (project / "folder.jsonl").mkdir()
    assert "nothing is recorded" in call("results", "check").stdout
    write(project / "a.jsonl", run(0), run(1))
    write(project / "b.jsonl", run(0, task="topics", data_hash="another task's"))
    *lacking, sound = call("results", "check").stdout.splitlines()
    assert sound == "sound: a, b"
    assert lacking == [
        "a: 2 runs without predictions, made before these were kept",
        "b: 1 run without predictions, made before these were kept",
    ]


def test_metrics_follow_from_predictions_or_are_found(project):
    rows = Rows(np.full(4, 2), {"input_ids": np.arange(8)}, [0, 1, 1, 0])
    parts = {"validation": Predictions.of(rows, np.eye(2)[[0, 1, 1, 1]], 2)}
    parts["test"] = Predictions.of(rows, np.eye(2)[[0, 1, 1, 0]], 2)
    sound = {"accuracy": 0.75, "test_accuracy": 1.0}
    write(project / "a.jsonl", run(0, metrics=sound, predictions=parts))
    assert recorded("a")[0].predictions == parts
    assert call("results", "check").stdout == "sound: a\n"
    for name in sound:
        write(project / "a.jsonl", run(0, metrics=sound | {name: 0.5}, predictions=parts))
        assert results.check() == [f"a.jsonl, line 1: {name} does not follow from the run's predictions"]


def test_each_finding_is_a_line_with_its_place(project):
    misnamed = run(2).model_copy(update={"name": "f" * 16})
    records = [run(0), run(1), run(1), misnamed, run(3, data_hash="other data")]
    write(project / "a.jsonl", *records)
    with (project / "a.jsonl").open("a") as file:
        file.write(results.as_line(run(4)).replace('"steps":2', '"steps":"some"') + "\n")
        file.write(results.as_line(run(5))[:-5] + "\n")
    write(project / "b.jsonl", run(0, device="another machine"))
    findings = call("results", "check", code=1).stdout.splitlines()
    assert sorted(finding.split(":")[0] for finding in findings) == [
        *(f"a.jsonl, line {number}" for number in range(3, 8)),
        "b.jsonl, line 1",
    ]
    said = {finding.split(":")[0]: finding for finding in findings}
    assert "stands in a.jsonl, line 2 already, the same record" in said["a.jsonl, line 3"]
    assert "is not the hash" in said["a.jsonl, line 4"]
    assert "one run on reviews used data with the hash other data" in said["a.jsonl, line 5"]
    assert "steps" in said["a.jsonl, line 6"] and "truncated" in said["a.jsonl, line 7"]
    assert "another record of the same run" in said["b.jsonl, line 1"]


def test_plans_that_no_run_can_have_are_found_and_unregistered_patterns_are_not(project):
    texts = ["neighbour(", "neighbour(1) @ 7", "mine(3) | global(cls)"]
    configs = [RunConfig.model_validate_json(json.dumps({"plan": text})) for text in texts]
    write(project / "a.jsonl", *map(record_of, configs))
    assert [finding.partition(": ")[0] for finding in results.check()] == [
        "a.jsonl, line 1",
        "a.jsonl, line 2",
    ]
    write(project / "a.jsonl", record_of(configs[2]))
    assert results.check() == [] and len(recorded()) == 1
    assert claims.verdicts(recorded()) == []


def test_learned_files_in_a_plan_do_not_count_as_other_data(project):
    plan = 'learned("degrees.json") | global(cls)'
    write(project / "a.jsonl", run(0), run(0, plan=plan, data_hash="of the data and the file"))
    assert results.check() == []


def test_methods_from_outside_of_the_package_do_not_count_as_other_data(project, monkeypatch):
    monkeypatch.setattr(METHODS, "fingerprints", {})
    monkeypatch.setitem(METHODS, "mine", None)
    del METHODS["mine"]  # and it is left out again after the test
    register(type("Mine", (Survival,), {"name": "mine", "__module__": __name__}))
    learned = {"plan": "learned", "degrees": {"target_density": 0.3, "method": "mine"}}
    write(project / "a.jsonl", run(0), run(0, **learned, learning=LEARNING, data_hash="of data and method"))
    assert results.check() == []
    METHODS.pop("mine")
    assert results.check() == [] and len(recorded()) == 2


def test_patterns_and_reductions_from_elsewhere_do_not_count_as_other_data(project, monkeypatch):
    own = [{"plan": "mine(1) | global(cls)"}, {"reduce": "mine(start=1)"}]
    configs = [RunConfig.model_validate_json(json.dumps(asked)) for asked in own]
    write(project / "a.jsonl", run(0), *(record_of(one, data_hash="of data and source") for one in configs))
    assert results.check() == []
    backward = type("Mine", (Neighbour,), {"name": "mine", "__module__": __name__})
    for registry, kind in ((PATTERNS, backward), (REDUCTIONS, type("Mine", (Ltp,), {"name": "mine"}))):
        monkeypatch.setitem(registry, "mine", kind)
        monkeypatch.setitem(registry.fingerprints, "mine", "of its source")
    assert results.check() == []
    write(project / "a.jsonl", run(0), run(0, reduce="ltp", data_hash="other data"))
    assert "can't be compared" in results.check()[0]


def test_the_list_has_a_line_for_each_kind_of_run(project):
    plans = ["random(2)", "random(2, seed=1)", "random(2, seed=2)"]
    drawn = [run(seed, plan=plan) for seed, plan in zip([0, 1, 3], plans, strict=True)]
    learned = {"plan": "learned", "degrees": {"target_density": 0.3, "sharing": "layer"}}
    write(project / "a.jsonl", *drawn, run(0, **learned, learning=LEARNING))
    text = call("results", "list").stdout
    assert text.startswith("a: 4 runs on a processor; python 3.11")
    assert "0, 1, 3" in text and "learned to 0.3 (sharing=layer)" in text
    rows = json.loads(call("results", "list", "--json").stdout)
    assert [(row["plan"], row["runs"]) for row in rows] == [
        ("learned to 0.3 (sharing=layer)", 1),
        ("random(2)", 3),
    ]


def test_where_numbers_come_from_is_not_said_of_no_runs():
    with pytest.raises(InputError, match="there are no runs"):
        provenance([])


def test_the_projects_own_results_are_sound():
    assert results.check() == []
