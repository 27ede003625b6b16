"""A quarter of an hour of a GPU, rehearsed on a processor: parts end, fail, are cut off and gone on with."""

from __future__ import annotations

import json
import time

import nbformat
import pytest
from click.testing import CliRunner
from studies import study

from sparsebert.bench.measuring import read_costs
from sparsebert.cli import main
from sparsebert.errors import InputError
from sparsebert.paths import Folders
from sparsebert.selftest.checks import read_report
from sparsebert.training.runs import RunRecord, RunStore

gpu = study("spend_gpu")
ORDER = ["selftest", "chapter", "attention", "training", "compiled", "inference", "grid"]


def states(out):
    return json.loads((out / "progress.json").read_text())["states"]


@pytest.fixture
def calls(monkeypatch):
    """The commands that would be called; each takes no time and ends with the code that is set for it."""
    called, codes = [], {}

    def call(command, seconds, *_):
        kinds = ("training", "inference", "flex", "attention")
        name = next((part for part in kinds if part in command), command[0])
        called.append((name, seconds, list(command)))
        return codes.get(name, 0)

    monkeypatch.setattr(gpu, "_call", call)
    return called, codes


def test_parts_come_in_order_and_what_is_done_or_failed_is_not_done_again(tmp_path, calls):
    called, codes = calls
    codes |= {"run": 1, "attention": None, "sweep": 1}
    out = tmp_path / "back"
    spent = [gpu.spend(out, "grid.yaml", Folders.named(), 5, told=str) for _ in range(2)]
    names = ["selftest", "run", "attention", "training", "flex", "inference", "sweep"]
    assert [name for name, *_ in called] == [*names, "attention", "sweep"]
    assert spent[0] == spent[1] == states(out)
    assert list(spent[0]) == ORDER and spent[0]["attention"] == "cut off"
    assert spent[0]["chapter"] == spent[0]["grid"] == "failed with exit code 1"
    assert all(seconds <= 300 for _, seconds, _ in called) and called[0][1] == 120
    assert called[6][2][-1] == f"{called[6][1]:.0f}s"  # the sweep's budget


def test_a_part_gets_no_more_than_its_share_over_all_pieces(tmp_path, calls):
    called, _ = calls
    out = tmp_path / "back"
    out.mkdir()
    had = {
        "states": {"selftest": "cut off", "chapter": "cut off"},
        "seconds": {"selftest": 119, "chapter": 60},
    }
    (out / "progress.json").write_text(json.dumps(had))
    told = []
    gpu.spend(out, "grid.yaml", Folders.named(), 5, told=told.append)
    assert told[0] == "selftest: cut off, no time left for it"
    assert called[0][0] == "run" and called[0][1] == pytest.approx(90)


def test_a_command_that_takes_too_long_is_ended(tmp_path):
    often = []
    started = time.monotonic()
    command = ["selftest", "--only", "kernels"]
    code = gpu._call(command, 2.0, {}, tmp_path / "log.txt", lambda: often.append(1))
    assert code is None and time.monotonic() - started < gpu._GRACE
    assert (tmp_path / "log.txt").read_text().startswith("\n$ sparsebert selftest --only kernels\n")


def test_wrong_input_ends_with_one_sentence(tmp_path):
    with pytest.raises(InputError, match="did you mean 'full'"):
        gpu.spend(tmp_path / "back", "grid.yaml", Folders.named(), 1, profile="fulll")
    (tmp_path / "progress.json").write_text("{}")
    with pytest.raises(InputError, match="give another folder"):
        gpu.spend(tmp_path, "grid.yaml", Folders.named(), 1)
    result = CliRunner().invoke(gpu.main, [str(tmp_path), "--profile", "fulll"])
    assert result.exit_code == 2 and result.stderr.startswith("Error: unknown profile 'fulll'")


@pytest.mark.slow
def test_timings_are_measured_by_commands_that_go_on(tmp_path):
    for part in gpu.parts(tmp_path, "grid.yaml", "01", [], "smoke", 1):
        if part.name in ("attention", "compiled", "inference"):
            for _ in range(2):
                result = CliRunner().invoke(main, part.command(60.0))
                assert result.exit_code == 0, result.output
            assert "has all of these lengths" in result.output
    for name, contenders in (("attention", gpu._FUSED), ("compiled", gpu._COMPILED)):
        rows, _ = read_costs(tmp_path / f"{name}.json")
        assert list(rows["contender"]) == 2 * list(contenders)
        assert ((rows["forward"] > 0) | (rows["left_out"] != "")).all()
    assert len(read_costs(tmp_path / "inference.json")[0]) == 2 * 2


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_with_what_came_back(small, workspace, monkeypatch):
    """The first piece stops behind two parts; the second one is on a machine that has no runs."""
    (workspace / "grid.yaml").write_text(json.dumps(small | {"plan": "neighbour(1)"}))
    cell = nbformat.v4.new_code_cell("rows: int = 3  # [1..] rows", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), workspace / "mine.ipynb")
    names, all_parts = ("selftest", "chapter", "training", "grid"), gpu.parts
    monkeypatch.setattr(gpu, "parts", lambda *given: [p for p in all_parts(*given) if p.name in names])
    monkeypatch.setattr(gpu, "_LEAST", 0.0)
    out, how = workspace / "back", {"profile": "smoke", "notebook": "mine.ipynb", "workers": 1}

    def interrupted(line):
        if line.startswith("chapter"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.spend(out, "grid.yaml", Folders.named(), 5, told=interrupted, given=["rows=8"], **how)
    assert states(out) == {"selftest": "done", "chapter": "done"}, (out / "log.txt").read_text()
    asked = ["back", "--minutes", 5, "--runs-dir", "other"]
    asked += [part for name, value in how.items() for part in (f"--{name}", value)]
    result = CliRunner().invoke(gpu.main, [str(part) for part in asked])
    assert result.exit_code == 0, (out / "log.txt").read_text()
    assert "selftest: done before\nchapter: done before\ntraining: done after" in result.output
    assert states(out) == dict.fromkeys(names, "done")
    assert not read_report(out / "selftest.json").wrong and (out / "chapter.ipynb").is_file()
    found = {RunRecord.read(line).name for line in (out / "runs.jsonl").read_bytes().splitlines()}
    assert found == {record.name for record in RunStore(workspace / "other")} and len(found) == 1
    third = RunStore(workspace / "third")
    gpu._restore(out, third)
    assert {record.name for record in third} == found
    came_back = {"progress.json", "log.txt", "selftest.json", "chapter.ipynb", "training.json", "runs.jsonl"}
    assert {path.name for path in out.iterdir()} == came_back
