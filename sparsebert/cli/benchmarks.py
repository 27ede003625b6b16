"""Costs, side by side in one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sparsebert.cli.options import RunCommand, config_of, folder_options, json_option

if TYPE_CHECKING:
    from types import ModuleType

    from sparsebert.paths import Folders

PLAN = "neighbour(64) | global(cls)"


class Lengths(click.ParamType):
    """Numbers of tokens such as "512,1k", in ascending order; 1k is 1,024."""

    name = "N,N,..."

    def convert(
        self, value: str | list[int], option: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        from sparsebert.bench.measuring import parse_lengths

        return parse_lengths(value, option.opts[0]) if isinstance(value, str) else value


@click.group()
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
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Measured rounds; one step of each contender warms up.",
)
@click.option(
    "--lengths",
    type=Lengths(),
    default=(),
    help="Measure at each of these lengths, by default on topics and about 20,000 of its tokens.  "
    "[default: the task's length]",
)
@folder_options("data")
@json_option
@click.pass_context
def bench_finetune(
    ctx: click.Context, rounds: int, lengths: list[int], folders: Folders, as_json: bool
) -> None:
    """Training speed under a plan, dense, and of transformers' Trainer at its defaults, on the same rows."""
    from sparsebert.training.runs import RunConfig

    config = config_of(ctx, task="topics", train_size=None) if lengths else config_of(ctx)
    for length in lengths:
        RunConfig.checked(max_length=length)
    from sparsebert.bench import finetune as benchmark

    result = benchmark.bench_finetune(config, rounds, folders, lengths)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    for measured in result.get("lengths", [result]):
        _describe_bench(measured, result["bars"])
    click.echo(f"medians of {rounds} rounds, {result['device']}, {result['precision']}")


def _describe_bench(measured: dict, bars: dict[str, float]) -> None:
    said = {
        name: f"bar {bar:g}: {'met' if measured['met'][name] else 'not met'}" for name, bar in bars.items()
    }
    cost, over = "masked_over_dense_time", "speedup_over_default_trainer"
    click.echo(
        f"at most {measured['max_length']} tokens ({measured['tokens_per_row']:.0f} on average), "
        f"{measured['rows']} rows, kernels {', '.join(dict.fromkeys(measured['kernels']))}"
    )
    for name, speed in measured["examples_per_second"].items():
        click.echo(f"  {name:>15}: {speed:6.1f} examples per second")
    click.echo(f"  masked takes {measured[cost]:.3f} times the dense time ({said[cost]})")
    click.echo(
        f"  times as fast as the default Trainer: {measured[over]['masked']:.2f} masked ({said[over]}), "
        f"{measured[over]['dense']:.2f} dense"
    )


def _bench_options(lengths: str, rounds: int) -> Callable:
    """Options that benchmarks of attention have in common."""
    options = [
        click.option(
            "--lengths",
            type=Lengths(),
            default=lengths,
            show_default=True,
            help="Tokens of a sequence; 1k is 1,024.",
        ),
        click.option("--rounds", default=rounds, show_default=True, type=click.IntRange(1)),
        click.option(
            "--longest-dense",
            type=Lengths(),
            metavar="LENGTH",
            help="Longest length for contenders whose cost grows with the square of the length.",
        ),
        click.option("--dtype", default="fp32", show_default=True, help="fp32, bf16 or fp16."),
        click.option("--device", help="cpu or cuda.  [default: a GPU where there is one]"),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
        click.option("--plot", metavar="FILE.png", help="Draw what was measured."),
        click.option(
            "--out",
            metavar="FILE.jsonl",
            help="Add rows there as they are measured; a length that it has is not measured again.",
        ),
        json_option,
    ]

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@bench.command(
    name="attention",
    epilog="Example: sparsebert bench attention --pattern 'neighbour(32) | global(cls)' --lengths 512,4k",
)
@click.option("--pattern", multiple=True, default=[PLAN], show_default=True, help="May be repeated.")
@click.option(
    "--contender", "contenders", multiple=True, help="One of those compared; may be repeated.  [default: all]"
)
@click.option("--heads", default=12, show_default=True, type=click.IntRange(1, 1024))
@click.option("--width", default=64, show_default=True, type=click.IntRange(1, 4096), help="Width of a head.")
@_bench_options("512,1k,2k,4k", rounds=7)
def bench_attention(**options: object) -> None:
    """One attention layer's core: time and memory of our kernels beside other implementations.

    The others are dense attention, the same with a mask, FlexAttention, the windows of torch's varlen_attn
    and of NATTEN on a GPU, and the layers of Longformer and BigBird without their projections. The floor is
    dense attention's time times the density.
    """
    from sparsebert.bench import attention as benchmark

    _bench(benchmark, benchmark.attention_rows, **options)


@bench.command(name="model", epilog="Example: sparsebert bench model --encoder bert-base --lengths 512,2k")
@click.option("--plan", default=PLAN, show_default=True)
@click.option(
    "--encoder",
    default="minilm",
    show_default=True,
    help="See `sparsebert encoders`; or bert-base, random weights of that size.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    default=["training", "inference"],
    show_default=True,
    help="May be repeated.",
)
@click.option("--tokens", type=click.IntRange(1), help="Tokens of a step.  [default: the longest length]")
@_bench_options("512,1k,2k,4k,8k", rounds=3)
def bench_model(**options: object) -> None:
    """A whole encoder, training and inference, dense and under a plan: tokens per second and memory.

    Also where the time goes: attention's core, projections, feed-forward and the rest.
    """
    from sparsebert.bench import models as benchmark

    options["tokens"] = options["tokens"] or max(options["lengths"])  # whichever lengths are left to measure
    _bench(benchmark, benchmark.model_rows, **options)


def _bench(
    benchmark: ModuleType,
    measure: Callable,
    *,
    longest_dense: list[int] | None,
    plot: str | None,
    out: str | None,
    as_json: bool,
    **options: object,
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
