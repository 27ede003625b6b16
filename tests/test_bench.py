from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from types import ModuleType

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from models import CONFIGS, tiny_batch, tiny_model

from sparsebert import figures
from sparsebert.bench import attention as bench_attention
from sparsebert.bench import models as bench_models
from sparsebert.bench.attention import Case, all_contenders, attention_rows
from sparsebert.bench.compared import encoders_over_dense, layers_over_dense
from sparsebert.bench.measuring import (
    costs_json,
    crossover,
    measured,
    peak_tensor_bytes,
    provenance,
    read_costs,
    recorded_costs,
)
from sparsebert.bench.models import MODES, PARTS, model_rows, parts_of, shares
from sparsebert.cli import main
from sparsebert.cli.options import lengths_of
from sparsebert.errors import InputError
from sparsebert.kernels import KERNELS
from sparsebert.patterns import parse_pattern

LAYER_COLUMNS = [
    "pattern",
    "contender",
    "length",
    "kernel",
    "density",
    "forward",
    "both",
    "forward_over_dense",
    "both_over_dense",
    "forward_over_floor",
    "both_over_floor",
    "spread",
    "memory_forward",
    "memory_both",
    "masks",
    "left_out",
]
MODEL_COLUMNS = [
    "encoder",
    "mode",
    "length",
    "batch",
    "contender",
    "plan",
    "kernel",
    "density",
    "seconds",
    "tokens_per_second",
    "over_dense",
    "spread",
    "memory",
    "attention",
    "projections",
    "feed_forward",
    "rest",
    "left_out",
]

SMALL = {"heads": 2, "width": 8, "rounds": 2}
COMMON = ("dense", "masked", "auto", "reference", "banded", "longformer")


@pytest.fixture(scope="module")
def layer():
    """Every contender that needs no compiler, at a length that BigBird takes too and one that it doesn't."""
    contenders = [*COMMON, "bigbird"]
    return pd.DataFrame(
        attention_rows("neighbour(32) | global(cls)", [128, 768], contenders=contenders, **SMALL)
    )


@pytest.fixture(scope="module")
def model():
    return pd.DataFrame(model_rows("neighbour(2) | global(cls)", [32, 64], encoder="tiny", rounds=2))


def costs(contender="auto", lengths=(1024, 4096, 16384), **columns):
    """Made-up rows of one contender whose time and memory grow with the length."""
    rows = []
    for length in lengths:
        row = dict.fromkeys(LAYER_COLUMNS, math.nan)
        row |= {"pattern": "neighbour(64)", "contender": contender, "length": length, "left_out": ""}
        for what in bench_attention.PASSES:
            row |= {what: 1e-6 * length, f"memory_{what}": 1e3 * length}
        rows.append(row | {name: at(length) if callable(at) else at for name, at in columns.items()})
    return pd.DataFrame(rows)


def call(*arguments, code=0):
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


# ---- the contenders


@pytest.mark.parametrize("name", ["reference", "banded", "flex", "longformer"])
@pytest.mark.parametrize("pattern", ["neighbour(32) | global(cls)", "neighbour(16)"])
def test_contenders_of_a_pattern_compute_the_same(name, pattern):
    """Above all Longformer's layer, whose projections are taken out."""
    case = Case(parse_pattern(pattern), 128, 2, 8, torch.float32, "cpu", math.inf, 0)
    *inputs, _ = case.inputs()
    made, masked = (all_contenders()[which].make(case, False) for which in (name, "masked"))
    torch.testing.assert_close(made.attend(*inputs), masked.attend(*inputs))
    assert made.density() == pytest.approx(masked.density())
    torch.testing.assert_close(inputs, list(case.inputs()[:3]), rtol=0, atol=0)  # nobody writes into them


def test_what_cannot_run_is_left_out_with_the_reason(layer):
    left = layer[layer["left_out"] != ""].set_index(["contender", "length"])["left_out"]
    assert left.to_dict() == {("bigbird", 128): "BigBird takes multiples of 64 above 704 tokens"}
    missing = layer[(layer["contender"] == "bigbird") & (layer["length"] == 128)]
    assert missing[["forward", "both", "forward_over_dense", "memory_both"]].isna().all(axis=None)


def test_flex_alone_and_dense_are_left_out_where_they_are_too_heavy():
    contenders = ["dense", "auto", "flex alone"]
    dense, auto, alone = attention_rows(
        "neighbour(1)", [32], contenders=contenders, longest_dense=16, **SMALL
    )
    assert "not run beyond 16" in dense["left_out"]
    assert "gradients on a GPU only" in alone["left_out"]
    assert auto["forward"] > 0 and math.isnan(auto["forward_over_dense"])


def windowed(query, key, value, width):
    """Attention within a window, of heads that stand behind their tokens."""
    apart = torch.arange(query.shape[1])
    allowed = (apart - apart[:, None]).abs() <= width
    heads = [x.transpose(1, 2) for x in (query, key, value)]
    return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=allowed).transpose(1, 2)


@pytest.mark.parametrize("name", ["varlen", "natten", "cudnn"])
def test_windows_of_gpu_libraries_get_the_layer_as_they_take_it(name, monkeypatch):
    """With a slow stand-in for the library, since there is no GPU here; without one they are left out."""
    from torch.nn.attention import varlen

    case = Case(parse_pattern("neighbour(3) | global(cls)"), 40, 2, 8, torch.float32, "cpu", math.inf, 0)
    with pytest.raises(bench_attention.Missing, match="GPUs only"):
        all_contenders()[name].make(case, False)

    def varlen_attn(query, key, value, of_queries, of_keys, most, most_keys, *, window_size):
        assert of_queries.tolist() == of_keys.tolist() == [0, 40] and (most, most_keys) == (40, 40)
        return windowed(query[None], key[None], value[None], *{*window_size})[0]

    natten = ModuleType("natten.functional")
    natten.na1d = lambda *heads, kernel_size: windowed(*heads, kernel_size // 2)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    monkeypatch.setitem(sys.modules, "natten", ModuleType("natten"))
    monkeypatch.setitem(sys.modules, "natten.functional", natten)
    monkeypatch.setattr(bench_attention, "_check_gpu", lambda case: None)
    made = all_contenders()[name].make(case, False)
    if name == "cudnn":
        assert made.density() == 1
        return
    *inputs, _ = case.inputs()
    band = Case(parse_pattern("neighbour(3)"), 40, 2, 8, torch.float32, "cpu", math.inf, 0)
    masked = all_contenders()["masked"].make(band, False)
    torch.testing.assert_close(made.attend(*inputs), masked.attend(*inputs))
    assert made.density() == pytest.approx(masked.density() if name == "varlen" else 7 / 40)


def test_a_bug_of_ours_is_not_taken_for_a_reason(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench_attention, "kernel_for", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        list(attention_rows("neighbour(1)", [16], contenders=["banded"], **SMALL))


# ---- numbers


def test_a_row_for_each_length_and_contender(layer):
    assert list(layer) == LAYER_COLUMNS
    assert layer[["length", "contender"]].apply(tuple, axis=1).tolist() == list(
        itertools.product([128, 768], [*COMMON, "bigbird"])
    )
    measured = layer[layer["left_out"] == ""]
    assert (measured[["forward", "both", "memory_forward", "memory_both"]] > 0).all(axis=None)
    ours = measured[measured["contender"].isin(["masked", "auto", "reference", "banded"])]
    assert ours["masks"].notna().all()


def test_ratios_and_floor_follow_from_the_rounds(monkeypatch):
    """The median of ratios, 0.19, is not the ratio of medians, 1.9 / 9; the floor is dense's time / 4."""
    given = {"dense": [8.0, 10.0, 9.0], "banded": [2.0, 1.9, 1.0]}
    turns = {(name, what): iter(times) for name, times in given.items() for what in ("forward", "both")}

    def take_turn(trial):
        trial.seconds.append(next(turns[trial.contender.name, trial.what]))

    monkeypatch.setattr(bench_attention._Trial, "take_turn", take_turn)
    size = {"heads": 1, "width": 4, "rounds": 3}
    _, band = attention_rows("neighbour(0)", [4], contenders=["dense", "banded"], **size)
    assert band["density"] == 1 / 4
    for what in ("forward", "both"):
        assert band[what] == 1.9
        assert band[f"{what}_over_dense"] == pytest.approx(0.19)
        assert band[f"{what}_over_floor"] == pytest.approx(4 * 0.19)
    assert band["spread"] == pytest.approx((1.95 - 1.45) / 1.9)


def test_crossover_is_where_it_stays_faster():
    ratios = {16: 1.0, 64: 0.8, 256: 0.97, 512: 0.9, 1024: 0.3}
    frame = costs(lengths=list(ratios), forward_over_dense=ratios.get)
    assert crossover(frame) == 512
    assert crossover(frame[frame["length"] <= 64]) == 64
    assert crossover(frame[frame["length"] <= 256]) is None
    assert crossover(frame, "banded") is None


def test_ratios_have_the_ends_that_the_rounds_allow():
    dense = costs(lengths=[64, 256], spread=0.01)
    dense["contender"] = "dense"
    ours = costs(
        lengths=[64, 256], forward_over_dense=0.5, both_over_dense={64: math.nan, 256: 0.8}.get, spread=0.1
    )
    found = layers_over_dense(pd.concat([dense, ours], ignore_index=True)).query("what == 'time'")
    assert found[["length", "pass"]].values.tolist() == [
        [64, "forward"],
        [256, "forward"],
        [256, "forward + backward"],
    ]
    assert found["ratio"].tolist() == [0.5, 0.5, 0.8]
    assert found["low"].tolist() == pytest.approx([0.5 * 0.8 / 1.02, 0.5 * 0.8 / 1.02, 0.8 * 0.8 / 1.02])
    assert found["high"].tolist() == pytest.approx([0.5 * 1.2 / 0.98, 0.5 * 1.2 / 0.98, 0.8 * 1.2 / 0.98])


def test_the_ends_hold_the_true_ratio_in_98_of_100_measurements():
    rounds = np.exp(0.05 * np.random.default_rng(0).standard_normal((2, 4000, 3)))
    low, middle, high = np.quantile(rounds, [0.25, 0.5, 0.75], axis=-1)
    frames = [
        pd.DataFrame({"mode": "m", "contender": name, "length": range(4000), "spread": spread, "memory": 1.0})
        for name, spread in zip(("plan", "dense"), (high - low) / middle, strict=True)
    ]
    frames[0]["over_dense"] = np.median(rounds[0] / rounds[1], axis=-1)
    found = encoders_over_dense(pd.concat(frames, ignore_index=True)).query("what == 'time'")
    assert 0.98 < ((found["low"] <= 1) & (found["high"] >= 1)).mean() < 0.995


def test_ratios_of_a_measurement(layer, model):
    found = encoders_over_dense(model)
    plan = model[model["contender"] == "plan"]
    assert found.loc[found["what"] == "time", "ratio"].tolist() == plan["over_dense"].tolist()
    memory = found[found["what"] == "memory"]
    dense = model.loc[model["contender"] == "dense", "memory"]
    assert memory["ratio"].tolist() == pytest.approx(
        [a / b for a, b in zip(plan["memory"], dense, strict=True)]
    )
    assert memory[["low", "high"]].isna().all(axis=None)
    own = layers_over_dense(layer).query("what == 'memory' and contender == 'banded'")
    banded, dense = (
        layer[layer["contender"] == name].set_index("length")["memory_both"] for name in ("banded", "dense")
    )
    ratios = own[own["pass"] == "forward + backward"].set_index("length")["ratio"]
    pd.testing.assert_series_equal(ratios, (banded / dense)[ratios.index], check_names=False)
    assert "dense" not in set(own["contender"])
    for compare in (layers_over_dense, encoders_over_dense):
        assert compare(pd.DataFrame()).empty and "low" in compare(pd.DataFrame())


def test_what_is_not_recorded_is_empty():
    frame, told = recorded_costs("cost_of_nothing")
    assert frame.empty and told == {}


def test_peak_memory_counts_what_exists_at_a_time():
    kilobytes = 1000

    def step():
        first = torch.ones(250, 100)  # 100 kB
        second = torch.ones(500, 100)  # 200 kB
        del first
        third = torch.ones(125, 100)  # 50 kB, into less than what was freed
        return second, third

    assert peak_tensor_bytes(step) == 300 * kilobytes
    kept = [torch.ones(1000, 100)]
    assert peak_tensor_bytes(kept.clear) == 0  # what was there before counts neither way
    x = torch.ones(100, 100, requires_grad=True)
    both = peak_tensor_bytes(lambda: torch.autograd.grad((x.exp() @ x).sum(), x))
    assert 3 * 40 * kilobytes <= both <= 6 * 40 * kilobytes  # tensors of the backward pass are seen


def test_memory_of_masks_is_counted(layer):
    """A mask of all pairs of 768 tokens has 0.6 million cells; a band has none."""
    memory = layer[layer["length"] == 768].set_index("contender")["memory_forward"]
    assert memory["masked"] > 768**2 and memory["reference"] > 768**2
    assert memory["banded"] < 768**2 / 2 + 4 * 2 * 768 * 8 * 10


# ---- whole models


def test_models_give_a_row_for_each_mode_length_and_contender(model):
    assert list(model) == MODEL_COLUMNS
    assert model[["mode", "length", "contender"]].apply(tuple, axis=1).tolist() == list(
        itertools.product(["training", "inference"], [32, 64], ["dense", "plan"])
    )
    assert model["batch"].tolist() == [2, 2, 1, 1] * 2  # every step has 64 tokens
    assert model["tokens_per_second"].tolist() == pytest.approx((64 / model["seconds"]).tolist())
    assert model[list(PARTS)].sum(axis=1).between(0.5, 1.5).all()  # medians of shares that add up to 1
    plan, dense = (model[model["contender"] == name] for name in ("plan", "dense"))
    assert (plan["density"] < 0.4).all() and (dense["density"] == 1).all()
    assert (dense["over_dense"] == 1).all() and (plan["memory"] > 0).all()
    training, inference = (model[model["mode"] == mode] for mode in ("training", "inference"))
    assert training["memory"].min() > inference["memory"].max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_shares_of_every_architecture_add_up_and_leave_no_hook(kind):
    model, batch = tiny_model(kind).train(), tiny_batch()

    def step():
        labels = torch.zeros(3, dtype=torch.long)
        model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()

    found = shares(model, step)
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_parts_of_a_layer():
    parts = {}
    model = tiny_model("bert")
    names = {module: name for name, module in model.base_model.named_modules()}
    for module, part in parts_of(model):
        if "layer.0" in names[module]:
            parts.setdefault(part, []).append(names[module].partition("layer.0.")[2])
    assert parts == {
        "attention": ["attention.self"],
        "projections": [f"attention.self.{x}" for x in ("query", "key", "value")]
        + ["attention.output.dense"],
        "feed_forward": ["intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"],
    }


def test_a_slow_part_has_the_larger_share(monkeypatch):
    """With a clock that only the feed-forward moves, all of the time is the feed-forward's."""
    now = [0.0]
    monkeypatch.setattr(bench_models, "perf_counter", lambda: now[0])
    model, batch = tiny_model("bert"), tiny_batch()
    feed_forward = model.base_model.encoder.layer[1].intermediate.dense
    forward = feed_forward.forward

    def slow(x):
        now[0] += 1.0
        return forward(x)

    feed_forward.forward = slow
    step = lambda: model(batch["input_ids"], attention_mask=batch["attention_mask"])  # noqa: E731
    assert shares(model, step) == {"attention": 0, "projections": 0, "feed_forward": 1, "rest": 0}


def test_dense_models_that_do_not_fit_are_not_tried(monkeypatch):
    class Free:
        available = 10_000

    monkeypatch.setattr(bench_models.psutil, "virtual_memory", Free)
    dense, plan = model_rows("neighbour(1)", [32], encoder="tiny", rounds=1, modes=["training"])
    assert "its scores would take" in dense["left_out"] and math.isnan(dense["seconds"])
    assert plan["seconds"] > 0 and math.isnan(plan["over_dense"])
    (dense, _) = model_rows(
        "neighbour(1)", [32], encoder="tiny", rounds=1, modes=["inference"], longest_dense=16
    )
    assert "not run beyond 16" in dense["left_out"]


def test_bert_base_is_made_without_a_download():
    with torch.device("meta"):
        made = bench_models.random_or_loaded("bert-base", 512)
    assert made.config.num_hidden_layers == 12 and made.config.hidden_size == 768


# ---- files


@pytest.mark.parametrize("which", ["layer", "model"])
def test_costs_are_read_as_they_were_written(request, tmp_path, which):
    frame = request.getfixturevalue(which)
    where = provenance(seed=3, rounds=2, lengths=[128, 768])
    text = costs_json(frame, where)
    (tmp_path / "costs.json").write_text(text)
    read, found = read_costs(tmp_path / "costs.json")
    pd.testing.assert_frame_equal(read, frame, check_dtype=False, rtol=1e-5)
    assert found == where and {"versions", "device", "threads", "dtype", "seed", "commit"} <= found.keys()
    assert len(text.splitlines()) == len(frame) + 3  # a line per row


@pytest.mark.parametrize("content", ["[", "[]", '{"records": []}', "[" * 20_000])
def test_files_that_hold_no_costs_are_refused(tmp_path, content):
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(InputError, match="holds no recorded costs"):
        read_costs(tmp_path / "costs.json")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_costs(tmp_path / "none.json")


# ---- command line


def test_lengths_are_read_in_thousands():
    command = click.Command("any", params=[click.Option(["--lengths"], callback=lengths_of)])
    context = command.make_context("any", ["--lengths", "4k, 512,1k"])
    assert context.params["lengths"] == [512, 1024, 4096]


def test_bench_attention_prints_tables_and_reasons(tmp_path):
    chosen = [part for name in ("dense", "auto", "bigbird") for part in ("--contender", name)]
    size = ["--lengths", "16,64", "--heads", 2, "--width", 8, "--rounds", 1]
    text = call("attention", *size, *chosen, "--plot", tmp_path / "a.png").stdout
    for word in (
        "16 tokens",
        "64 tokens",
        "density",
        "masks ms",
        "without bigbird:",
        "rounds",
    ):
        assert word in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    printed = call("attention", *size, "--pattern", "neighbour(1)", "--contender", "auto", "--json")
    content = json.loads(printed.stdout)
    assert [row["length"] for row in content["records"]] == [16, 64]
    assert content["provenance"]["lengths"] == [16, 64] and content["provenance"]["interrupted"] is False
    assert "round 1 of 1" in printed.stderr


def test_bench_model_prints_tables_and_json(tmp_path):
    size = ["--encoder", "tiny", "--lengths", "16", "--rounds", 1, "--mode", "inference"]
    text = call("model", *size, "--plot", tmp_path / "m.png").stdout
    assert "tokens/s" in text and "feed-forward %" in text and "plan: neighbour(64) | global(cls)" in text
    assert (tmp_path / "m.png").exists()
    rows = json.loads(call("model", *size, "--plan", "neighbour(1)", "--json").stdout)["records"]
    assert [row["contender"] for row in rows] == ["dense", "plan"]


MODEL = ["model", "--encoder", "tiny", "--rounds", 1, "--plan", "neighbour(1)", "--tokens", 64, "--lengths"]
LAYER = ["attention", "--heads", 2, "--width", 8, "--rounds", 1, "--contender", "dense", "--lengths"]


@pytest.fixture
def stopped(monkeypatch):
    """Stops what is measured: a call of it says before which round, counted over modes and lengths."""
    take_turns = bench_models.measuring.take_turns

    def stop_before(number):
        rounds = iter(range(number))

        def until(*given):
            if next(rounds, None) is None:
                raise KeyboardInterrupt
            take_turns(*given)

        monkeypatch.setattr(bench_models.measuring, "take_turns", until)

    return stop_before


def kept(out):
    """Kind and length of the rows for dense attention, in their order, and the provenance."""
    table, where = read_costs(out)
    dense = table[table["contender"] == "dense"]
    return list(zip(dense["mode" if "mode" in dense else "pattern"], dense["length"], strict=True)), where


def test_what_is_measured_goes_on_in_its_file_with_what_is_missing(tmp_path, stopped):
    """By default a model is measured in both modes; the file is one that chapters and figures read."""
    out = tmp_path / "costs.json"
    both = [(mode, length) for mode in MODES for length in (32, 64)]
    for rounds in (1, 1, 1):
        stopped(rounds)
        call(*MODEL, "32,64", "--out", out, code=130)
    rows, where = kept(out)
    assert rows == both[:3] and where["interrupted"] and where["lengths"] == [32, 64]
    stopped(1)
    assert "tokens/s" in call(*MODEL, "32,64", "--out", out).stdout
    rows, where = kept(out)
    assert rows == both and not where["interrupted"] and where["plan"] == "neighbour(1)"
    stopped(0)
    result = call(*MODEL, "64", "--out", out)
    assert "has all of these lengths" in result.stderr and "inference" in result.stdout
    assert kept(out) == (rows, where)
    assert json.loads(call(*MODEL, "64", "--out", out, "--json").stdout)["provenance"] == where
    assert len(encoders_over_dense(read_costs(out)[0])) == 2 * 4


def test_a_length_that_lacks_a_contender_is_measured_again(tmp_path):
    out = tmp_path / "costs.json"
    call(*MODEL, "32", "--mode", "inference", "--out", out)
    table, where = read_costs(out)
    out.write_text(costs_json(table.iloc[:1].assign(density=0.5), where))
    call(*MODEL, "32", "--mode", "inference", "--out", out)
    assert read_costs(out)[0][["contender", "density"]].iloc[0].tolist() == ["dense", 1.0]
    assert read_costs(out)[0]["contender"].tolist() == ["dense", "plan"]


def test_another_measurement_is_not_mixed_with_the_one_that_a_file_has(tmp_path):
    out = tmp_path / "costs.json"
    patterns = ["--pattern", "neighbour(1)", "--pattern", "neighbour( 2 )"]
    for lengths in ("16", "8,16"):
        call(*LAYER, lengths, *patterns, "--out", out)
    rows, where = kept(out)
    assert sorted(rows) == [(f"neighbour({width})", length) for width in (1, 2) for length in (8, 16)]
    assert where["lengths"] == [8, 16] and where["contenders"] == ["dense"]
    before = out.read_text()
    for arguments, words in (
        ((*LAYER, "8", *patterns, "--seed", 1), "was measured with seed=0, and not 1"),
        ((*LAYER, "8", *patterns, "--longest-dense", 9), "longest_dense=the default, and not 9"),
        (
            (*LAYER, "8"),
            'pattern=["neighbour(1)", "neighbour( 2 )"], and not ["neighbour(64) | global(cls)"]',
        ),
        ((*MODEL, "8"), "give another file"),
    ):
        assert words in call(*arguments, "--out", out, code=2).stderr
    assert out.read_text() == before
    out.write_text("{}\n")
    assert "holds no recorded costs" in call(*LAYER, "8", "--out", out, code=2).stderr
    assert "it is a folder" in call(*LAYER, "8", "--out", tmp_path, code=2).stderr


def test_an_interruption_leaves_what_was_measured(monkeypatch):
    def interrupted(*_, **__):
        yield from costs(lengths=[16]).to_dict("records")
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_attention, "attention_rows", interrupted)
    result = call("attention", code=130)
    assert "16 tokens" in result.stdout and "interrupted" in result.stderr


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (("attention", "--lengths", "5x"), "'5x' is no length"),
        (("attention", "--lengths", "0"), "'0' is no length"),
        (("attention", "--longest-dense", "much"), "--longest-dense much"),
        (("attention", "--pattern", "neighbor(1)"), "did you mean 'neighbour'"),
        (("attention", "--pattern", "syntax"), "reads more than positions"),
        (("attention", "--pattern", "learned"), "names no file"),
        (("attention", "--contender", "longfromer"), "did you mean 'longformer'"),
        (("attention", "--dtype", "fp8"), "unknown dtype 'fp8'"),
        (("attention", "--device", "tpu"), "unknown device 'tpu'"),
        (("attention", "--plot", "costs.pdf"), "figures are PNG files"),
        (("attention", "--plot", "no/such/costs.png"), "there is no folder"),
        (("attention", "--plot", "a.png", "--contender", "auto"), "add --contender dense"),
        (("model", "--plan", "syntax"), "reads parses"),
        (("model", "--encoder", "minlm"), "did you mean 'minilm'"),
        (("model", "--encoder", "tiny", "--plan", "neighbour(1) @ 7"), "its layers are 0-1"),
        (("model", "--mode", "trainin"), "did you mean 'training'"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_exit_code_2(arguments, answer):
    result = call(*arguments, code=2)
    (line,) = (line for line in result.stderr.splitlines() if not line.startswith("  "))
    assert answer in line and result.stdout == ""


def test_every_kernel_is_a_contender():
    assert {*KERNELS} < {*all_contenders()}


# ---- figures


def test_a_layer_is_drawn_as_ratios_to_dense_attention(layer, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures.costs.Figure, "savefig", lambda figure, *_, **how: drawn.append((figure, how))
    )
    figures.costs.draw_costs(layer, str(tmp_path / "costs.png"))
    [(figure, how)] = drawn
    panels = [axes.get_title() for axes in figure.axes]
    assert panels == [
        f"{what}, {words}\nneighbour(32) | global(cls)"
        for words in ("forward", "forward + backward")
        for what in ("time", "memory")
    ]
    assert {axes.get_xscale() + axes.get_yscale() for axes in figure.axes} == {"loglog"}
    banded = layer[layer["contender"] == "banded"].set_index("length")["forward_over_dense"]
    assert f"banded: {banded[128]:.2f} at 128 tokens" in how["metadata"]["Description"]


def test_descriptions_say_what_each_length_takes(model):
    text = figures.costs.describe_shares(model)
    assert "training at 32 tokens" in text and "inference at 64 tokens" in text and "nan" not in text


def test_stacked_parts_add_up_to_the_time_per_token(model):
    training, _ = figures.costs.where_time_goes(model).axes
    stacked = [bars[0] for bars in training.containers]
    assert len(training.patches) == 4 * len(PARTS) and len(stacked) == len(PARTS)
    first = model.iloc[0]
    heights = [bar.get_height() for bar in stacked]
    assert heights == pytest.approx([1e6 / first["tokens_per_second"] * first[part] for part in PARTS])
    assert [bar.get_y() for bar in stacked] == pytest.approx([0, *np.cumsum(heights)[:-1]])


def test_ratios_are_drawn_with_their_intervals_and_told(monkeypatch):
    shown = []
    frame = pd.DataFrame(
        [
            {
                "what": what,
                "mode": "training",
                "length": length,
                "ratio": ratio,
                "low": low,
                "high": 1.2 * ratio,
            }
            for what, low in (("time", 0.4), ("memory", math.nan))
            for length, ratio in ((64, 1.0), (512, 0.5))
        ]
    ).assign(mode="training")
    time, memory = figures.costs.over_dense(frame, "mode", col="what").axes
    assert [axes.get_title() for axes in (time, memory)] == ["time", "memory"]
    (bars,) = (line.get_segments() for line in time.containers[0].lines[2])
    assert bars[1][:, 1] == pytest.approx([0.4, 0.6])
    text = figures.costs.describe_over_dense(frame, "mode", col="what")
    assert "time, training: 1.00 at 64 tokens and 0.50 at 512 tokens." in text
    monkeypatch.setattr(
        figures.page, "display", lambda *_, metadata, **__: shown.append(metadata["sparsebert"])
    )
    figures.costs.show_over_dense(frame, "mode", "what", name="fig-costs", caption="Costs.")
    figures.costs.show_over_dense(frame[:0], "mode", name="fig-nothing", caption="Nothing.")
    assert [one["name"] for one in shown] == ["fig-costs"] and shown[0]["alt"] == text


def test_nothing_measured_is_not_drawn(layer, model, tmp_path):
    with pytest.raises(InputError, match="nothing was measured beside dense"):
        figures.costs.draw_costs(layer[layer["left_out"] != ""], str(tmp_path / "costs.png"))
    with pytest.raises(InputError, match="nothing was measured"):
        figures.costs.where_time_goes(model.assign(tokens_per_second=math.nan))


def test_a_measurement_is_read_where_one_is_recorded_for_all_that_is_asked(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").write_text("")
    monkeypatch.chdir(tmp_path)
    made = []

    def measure():
        made.append(1)
        return pd.DataFrame({"plan": ["dense"], "seconds": [float(len(made))]})

    def seconds(**asked) -> float:
        return measured("plans", measure, **asked)[0]["seconds"].item()

    assert [seconds(lengths=[8]), seconds(lengths=[8])] == [1, 2]  # nothing is recorded with the book
    [kept] = (tmp_path / "runs" / "costs").iterdir()
    recorded = tmp_path / "book" / "results" / "costs"
    recorded.mkdir(parents=True)
    shutil.copy(kept, recorded)
    assert [seconds(lengths=[8]), seconds(lengths=[8])] == [2, 2]
    assert measured("plans", measure, lengths=[8])[1]["finished"].startswith("20")
    assert seconds(lengths=[16]) == 3
    monkeypatch.setenv("SPARSEBERT_FRESH", "1")
    assert seconds(lengths=[8]) == 4
