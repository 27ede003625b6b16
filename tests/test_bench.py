from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from models import CONFIGS, tiny_batch, tiny_model

from sparsebert import figures
from sparsebert.bench import attention as bench_attention
from sparsebert.bench import models as bench_models
from sparsebert.bench.attention import Case, all_contenders, bars, measure_attention
from sparsebert.bench.compared import by_amdahl, by_length, encoders_over_dense, layers_over_dense
from sparsebert.bench.measuring import (
    costs_json,
    crossover,
    growth,
    measured,
    parse_lengths,
    peak_memory,
    provenance,
    read_costs,
    recorded_costs,
)
from sparsebert.bench.models import MODES, PARTS, measure_models, parts_of, shares
from sparsebert.cli import main
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
    "forward_over_auto",
    "both_over_auto",
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
    return measure_attention(
        "neighbour(32) | global(cls)", [128, 768], contenders=[*COMMON, "bigbird"], **SMALL
    )


@pytest.fixture(scope="module")
def model():
    return measure_models("neighbour(2) | global(cls)", [32, 64], encoder="tiny", rounds=2)


def costs(contender="auto", lengths=(1024, 4096, 16384), power=1.0, **columns):
    """Made-up rows of one contender whose time and memory grow with a power of the length."""
    rows = []
    for length in lengths:
        row = dict.fromkeys(LAYER_COLUMNS, math.nan)
        row |= {"pattern": "neighbour(64)", "contender": contender, "length": length, "left_out": ""}
        for what in bench_attention.PASSES:
            row |= {what: 1e-6 * length**power, f"memory_{what}": 1e3 * length**power}
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
    frame = measure_attention(
        "neighbour(1)", [32], contenders=["dense", "auto", "flex alone"], longest_dense=16, **SMALL
    ).set_index("contender")
    assert "not run beyond 16" in frame.loc["dense", "left_out"]
    assert "gradients on a GPU only" in frame.loc["flex alone", "left_out"]
    assert frame.loc["auto", "forward"] > 0 and math.isnan(frame.loc["auto", "forward_over_dense"])


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
        measure_attention("neighbour(1)", [16], contenders=["banded"], **SMALL)


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
    frame = measure_attention("neighbour(0)", [4], contenders=["dense", "banded"], heads=1, width=4, rounds=3)
    band = frame.set_index("contender").loc["banded"]
    assert band["density"] == 1 / 4
    for what in ("forward", "both"):
        assert band[what] == 1.9
        assert band[f"{what}_over_dense"] == pytest.approx(0.19)
        assert band[f"{what}_over_floor"] == pytest.approx(4 * 0.19)
    assert band["spread"] == pytest.approx((1.95 - 1.45) / 1.9)


def test_growth_is_the_exponent():
    lengths = np.array([1024, 2048, 16384])
    assert growth(lengths, 3e-6 * lengths**1.5) == pytest.approx(1.5)
    assert math.isnan(growth([1024], [1.0]))


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
    table = by_length(found[(found["mode"] == "training") | (found["length"] == 32)])
    assert list(table) == ["tokens", *(f"{mode}: {what}" for what in ("time", "memory") for mode in MODES)]
    assert table["training: time"].tolist()[0] == f"{plan['over_dense'].iloc[0]:.2f}"
    assert table["inference: memory"].tolist()[1:] == ["–"]
    long = by_length(found.assign(length=1000 * found["length"]))
    assert long["tokens"].tolist() == [f"{length:,}" for length in sorted({*1000 * found["length"]})]
    bound = by_amdahl(model)
    assert bound["most"].tolist() == pytest.approx((1 / (1 - bound["share"])).tolist())
    assert bound["reached"].tolist() == pytest.approx((1 / plan["over_dense"]).tolist())
    for compare, column in ((layers_over_dense, "low"), (encoders_over_dense, "low"), (by_amdahl, "most")):
        assert compare(pd.DataFrame()).empty and column in compare(pd.DataFrame())


def test_what_is_not_recorded_is_empty():
    frame, told = recorded_costs("cost_of_nothing")
    assert frame.empty and told == {}


def test_bars_are_judged_by_what_was_measured():
    ours = costs(forward_over_floor=1.9, both_over_floor=2.6, forward_over_dense=1.0, both_over_dense=1.06)
    peers = [costs(name, forward_over_auto=4.5, both_over_auto=3.0) for name in ("longformer", "bigbird")]
    met = bars(pd.concat([ours, *peers])).set_index("bar")["met"]
    assert (
        met["forward over the floor, 4,096 tokens"]
        and met["times as fast as longformer, forward, 4,096 tokens"]
    )
    assert met[[name for name in met.index if name.startswith("growth")]].all()
    failed = [
        "forward + backward over the floor, 4,096 tokens",
        "times as fast as longformer, forward + backward, 4,096 tokens",
        "times as fast as bigbird, forward, 4,096 tokens",
        "times as fast as bigbird, forward + backward, 4,096 tokens",
        "over dense, forward + backward, worst length",
    ]
    assert met[~met.astype(bool)].index.tolist() == failed
    steep = bars(costs(power=1.3))
    assert not steep[steep["bar"].str.startswith("growth")]["met"].any()
    assert steep[~steep["bar"].str.startswith("growth")]["met"].isna().all()
    assert bars(costs(lengths=[1024, 4096]))["met"].isna().all()


def test_peak_memory_counts_what_exists_at_a_time():
    kilobytes = 1000

    def step():
        first = torch.ones(250, 100)  # 100 kB
        second = torch.ones(500, 100)  # 200 kB
        del first
        third = torch.ones(125, 100)  # 50 kB, into less than what was freed
        return second, third

    assert peak_memory(step) == 300 * kilobytes
    kept = [torch.ones(1000, 100)]
    assert peak_memory(kept.clear) == 0  # what was there before counts neither way
    x = torch.ones(100, 100, requires_grad=True)
    both = peak_memory(lambda: torch.autograd.grad((x.exp() @ x).sum(), x))
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
    frame = measure_models("neighbour(1)", [32], encoder="tiny", rounds=1, modes=["training"])
    dense, plan = frame.to_dict("records")
    assert "its scores would take" in dense["left_out"] and math.isnan(dense["seconds"])
    assert plan["seconds"] > 0 and math.isnan(plan["over_dense"])
    (dense, _) = measure_models(
        "neighbour(1)", [32], encoder="tiny", rounds=1, modes=["inference"], longest_dense=16
    ).to_dict("records")
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


@pytest.mark.parametrize("content", [None, "[", "[]", '{"records": []}'])
def test_files_that_hold_no_costs_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "costs.json").write_text(content)
    with pytest.raises(InputError, match="holds no recorded costs"):
        read_costs(tmp_path / "costs.json")


def test_lengths_are_read_in_thousands():
    assert parse_lengths("4k, 512,1k") == [512, 1024, 4096]


# ---- command line


def test_bench_attention_prints_tables_bars_and_reasons(tmp_path):
    chosen = [part for name in ("dense", "auto", "bigbird") for part in ("--contender", name)]
    size = ["--lengths", "16,64", "--heads", 2, "--width", 8, "--rounds", 1]
    text = call("attention", *size, *chosen, "--plot", tmp_path / "a.png").stdout
    for word in (
        "16 tokens",
        "64 tokens",
        "density",
        "masks ms",
        "without bigbird:",
        "not measured",
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


def test_rows_are_added_to_a_file_and_lengths_that_it_has_are_not_measured_again(tmp_path, monkeypatch):
    out, tokens = tmp_path / "rows.jsonl", ["--tokens", 64]
    model = ["model", "--encoder", "tiny", "--rounds", 1, "--out", out, "--lengths"]
    layer = ["attention", "--heads", 2, "--width", 8, "--rounds", 1, "--contender", "dense", "--out", out]

    def kept():
        rows = [json.loads(line)["row"] for line in out.read_text().splitlines()]
        return [(row.get("mode"), row["length"]) for row in rows if row["contender"] == "dense"]

    call(*model, "32", *tokens, "--mode", "training")
    call(*model, "32,64", *tokens, "--mode", "training")
    assert kept() == [("training", 32), ("training", 64)]
    assert "has all of these lengths" in call(*model, "32,64", *tokens, "--mode", "training").output
    call(*model, "32", *tokens)  # both modes: one of them is missing
    assert kept()[2:] == [("training", 32), ("inference", 32)]
    call(*model, "32", "--tokens", 32, "--mode", "training")  # another measurement
    call(*layer, "--lengths", "16", "--pattern", "neighbour(1)")
    call(*layer, "--lengths", "16", "--pattern", "neighbour(1)", "--pattern", "neighbour(2)")
    assert len(kept()) == 8 and kept()[4:] == [("training", 32), *[(None, 16)] * 3]
    out.write_text("{}\n")
    assert "it holds other things than rows" in call(*model, "32", code=2).output


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


@pytest.mark.parametrize("kind", ["time", "memory"])
def test_costs_are_drawn_by_contender_and_pass(layer, kind):
    figure = figures.costs.against_length(layer, kind)
    assert [axes.get_title() for axes in figure.axes] == ["forward", "forward + backward"]
    assert {axes.get_xscale() + axes.get_yscale() for axes in figure.axes} == {"loglog"}
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    own = layer[layer["contender"] == "banded"]
    column, unit = {"time": ("forward", 1e3), "memory": ("memory_forward", 1e-6)}[kind]
    np.testing.assert_allclose(drawn["banded"].get_ydata(), unit * own[column])
    assert "dense" in drawn


def test_the_crossover_is_marked_and_told():
    ratios = {256: 1.2, 512: 0.9, 1024: 0.5}
    frame = pd.concat(
        [costs("dense", list(ratios)), costs("auto", list(ratios), forward_over_dense=ratios.get)]
    )
    forward, both = figures.costs.against_length(frame).axes
    assert [text.get_text() for text in forward.texts] == ["auto is faster\nfrom 512"]
    assert not both.texts
    text = figures.costs.describe_against_length(frame)
    assert "at 1,024 tokens: dense 1.02, auto 1.02" in text and "faster than dense from 512 tokens on" in text


def test_descriptions_say_what_the_longest_length_takes(layer, model):
    assert "at 768 tokens:" in figures.costs.describe_against_length(layer, "memory")
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
    with pytest.raises(InputError, match="lacks the column low"):
        figures.costs.over_dense(frame.drop(columns="low"), "mode")


def test_nothing_measured_is_not_drawn(layer):
    with pytest.raises(InputError, match="nothing was measured"):
        figures.costs.against_length(layer[layer["left_out"] != ""])


def test_the_blocks_of_the_band_are_drawn():
    figure = figures.costs.tiles(24, 2, 4)
    assert figure.axes[0].get_xlabel() == "keys"
    with pytest.raises(InputError):
        figures.costs.tiles(0, 2, 4)


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
