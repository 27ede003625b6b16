"""Costs, side by side in one run."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import RunCommand, answer, folder_options, json_option
from sparsebert.paths import Folders

PLAN = "neighbour(64) | global(cls)"
_COUNT = click.IntRange(1)


def lengths_of(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int]:
    from sparsebert.bench.measuring import parse_lengths

    return parse_lengths(value, option.opts[0]) if value is not None else []


@main.group()
def bench() -> None:
    """Measure side by side, in one run, as ratios."""


@bench.command(
    name="finetune",
    cls=RunCommand,
    run_defaults={"plan": "neighbour(2) | global(cls)", "train_size": 800},
    learns=False,
    epilog="Example: sparsebert bench finetune --lengths 32,128,512 --json",
)
@click.option(
    "--rounds", default=3, type=_COUNT, help="Measured rounds, after one step of each contender to warm up."
)
@click.option(
    "--lengths",
    callback=lengths_of,
    metavar="N,N,...",
    help="Measure at each of these lengths, by default on topics and about 20,000 of its tokens.  "
    "[default: the task's length]",
)
@folder_options("data")
@json_option
def bench_finetune(
    config_of: Callable, rounds: int, lengths: list[int], folders: Folders, as_json: bool
) -> None:
    """Training speed under a plan, dense, and of transformers' Trainer at its defaults, on the same rows."""
    from sparsebert.training.runs import RunConfig

    config = config_of(task="topics", train_size=None) if lengths else config_of()
    for length in lengths:
        RunConfig.checked(max_length=length)
    from sparsebert.bench import finetune as benchmark

    result = benchmark.bench_finetune(config, rounds, folders, lengths)
    answer(as_json, result, benchmark.as_text(result))


def _common(lengths: str, rounds: int) -> list[click.Parameter]:
    """Options that benchmarks of attention have in common."""
    longest = "Longest length for implementations whose cost grows with the square of the length."
    again = "File that gets each measurement as it is made; a length that it holds is not measured again."
    said = "Tokens per sequence, a list; 1k is 1,024."
    return [
        click.Option(["--lengths"], callback=lengths_of, default=lengths, metavar="N,N,...", help=said),
        click.Option(["--rounds"], default=rounds, type=_COUNT, help="Rounds of measurements."),
        click.Option(["--longest-dense"], callback=lengths_of, metavar="LENGTH", help=longest),
        click.Option(["--dtype"], default="fp32", help="Number format: fp32, bf16 or fp16."),
        click.Option(["--device"], help="Device: cpu or cuda.  [default: a GPU where there is one]"),
        click.Option(["--seed"], default=0, type=click.IntRange(0), help="Seed of the inputs and weights."),
        click.Option(["--plot"], metavar="FILE.png", help="Draw the measurements into this file."),
        click.Option(["--out"], metavar="FILE.jsonl", help=again),
    ]


@bench.command(
    name="attention",
    params=[
        click.Option(
            ["--pattern"], multiple=True, default=[PLAN], help="Pattern to measure; may be repeated."
        ),
        click.Option(
            ["--contender", "contenders"],
            multiple=True,
            help="Implementation to measure; may be repeated.  [default: all]",
        ),
        click.Option(["--heads"], default=12, type=click.IntRange(1, 1024), help="Number of heads."),
        click.Option(["--width"], default=64, type=click.IntRange(1, 4096), help="Numbers per head."),
        *_common("512,1k,2k,4k", rounds=7),
    ],
    epilog="Example: sparsebert bench attention --pattern 'neighbour(32) | global(cls)' --lengths 512,4k",
)
@json_option
def bench_attention(**options: object) -> None:
    """One attention layer's core: time and memory of our kernels beside other implementations.

    The others are dense attention, the same with a mask, FlexAttention, the windows of torch's varlen_attn
    and of NATTEN on a GPU, and the layers of Longformer and BigBird without their projections. The floor is
    dense attention's time times the density.
    """
    from sparsebert.bench import attention as benchmark

    _bench(benchmark, benchmark.attention_rows, **options)


@bench.command(
    name="model",
    params=[
        click.Option(["--plan"], default=PLAN, help="Plan beside dense attention."),
        click.Option(
            ["--encoder"],
            default="minilm",
            help="Encoder, see `sparsebert encoders`; or bert-base: random weights of that size.",
        ),
        click.Option(
            ["--mode", "modes"],
            multiple=True,
            help="What to time: training or inference; may be repeated.  [default: both; inference "
            "with --reduce]",
        ),
        click.Option(
            ["--reduce"], help="Way to let tokens leave under the plan, see `sparsebert reductions`."
        ),
        click.Option(["--tokens"], type=_COUNT, help="Tokens per step.  [default: the longest length]"),
        *_common("512,1k,2k,4k,8k", rounds=3),
    ],
    epilog="Example: sparsebert bench model --encoder bert-base --lengths 512,2k",
)
@json_option
def bench_model(**options: object) -> None:
    """A whole encoder, training and inference, dense and under a plan: tokens per second and memory.

    With --reduce tokens leave under the plan: --plan dense --reduce 'lat(keep=0.5 @ 1)'.

    Also where the time goes: attention's core, projections, feed-forward and the rest.
    """
    from sparsebert.bench import models as benchmark

    options["tokens"] = options["tokens"] or max(options["lengths"])  # whichever lengths are left to measure
    _bench(benchmark, benchmark.model_rows, **options)


def _bench(
    benchmark: ModuleType,
    measure: Callable,
    longest_dense: list[int],
    plot: str | None,
    out: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure, print and draw; after Ctrl-C, what was measured until then, and exit code 130."""
    import pandas as pd

    from sparsebert.bench.measuring import Kept, costs_json, provenance

    given = {name: value for name, value in options.items() if value not in (None, ())}
    kept = Kept(out, given) if out else None
    if kept and not (left := kept.left(options["lengths"])):
        click.echo(f"{out} has all of these lengths", err=True)
        return
    given |= {"lengths": left} if kept else {}
    if longest_dense:
        given["longest_dense"] = longest_dense[-1]
    if plot:
        from sparsebert.figures import costs

        costs.check_plot(plot)
    rows, interrupted = [], False
    try:
        for row in measure(**given):
            rows.append(row)
            if kept:
                kept.add(row)
    except KeyboardInterrupt:
        interrupted = True
    if rows:
        frame, where = pd.DataFrame(rows), provenance(**given)
        if as_json:
            click.echo(costs_json(frame, where | {"interrupted": interrupted}), nl=False)
        else:
            click.echo(benchmark.as_text(frame))
            click.echo(f"\n({options['rounds']} rounds, {where['device']}, {options['dtype']})")
        if plot:
            costs.draw_costs(frame, plot)
            click.echo(f"drawn in {plot}", err=True)
    if interrupted:
        click.echo("interrupted: lengths that were not finished are left out", err=True)
        raise SystemExit(130)
