"""Costs, side by side in one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sparsebert.cli.options import RunCommand, config_of, folder_options, json_option

if TYPE_CHECKING:
    from sparsebert.paths import Folders


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
    help="Measured rounds; a step of each warms up.",
)
@click.option(
    "--lengths",
    metavar="N,N,...",
    help="Measure at each of these numbers of tokens, on topics and some 20,000 tokens of it unless told.  "
    "[default: the task's]",
)
@folder_options("data")
@json_option
@click.pass_context
def bench_finetune(
    ctx: click.Context, rounds: int, lengths: str | None, folders: Folders, as_json: bool
) -> None:
    """Training speed under a plan, dense, and of transformers' Trainer at its defaults, on the same rows."""
    if lengths is None:
        several, config = [], config_of(ctx)
    else:
        from sparsebert.bench.measuring import parse_lengths
        from sparsebert.training.runs import RunConfig

        several, config = parse_lengths(lengths), config_of(ctx, task="topics", train_size=None)
        for length in several:
            RunConfig.checked(max_length=length)
    from sparsebert.bench import finetune as benchmark

    result = benchmark.bench_finetune(config, rounds, folders, several)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    for measured in result.get("lengths", [result]):
        _describe_bench(measured, result["bars"])
    click.echo(f"medians of {rounds} rounds, {result['device']}, {result['precision']}")


def _describe_bench(measured: dict, bars: dict[str, float]) -> None:
    click.echo(
        f"at most {measured['max_length']} tokens ({measured['tokens_per_row']:.0f} on average), "
        f"{measured['rows']} rows, kernels {', '.join(dict.fromkeys(measured['kernels']))}"
    )
    for name, speed in measured["examples_per_second"].items():
        click.echo(f"  {name:>15}: {speed:6.1f} examples per second")
    said = {met: "met" if measured["met"][met] else "not met" for met in bars}
    faster, cost = measured["speedup_over_default_trainer"], "masked_over_dense_time"
    click.echo(f"  masked takes {measured[cost]:.3f} times the dense time (bar {bars[cost]:g}: {said[cost]})")
    over = "speedup_over_default_trainer"
    click.echo(
        f"  times as fast as the default Trainer: {faster['masked']:.2f} masked "
        f"(bar {bars[over]:g}: {said[over]}), {faster['dense']:.2f} dense"
    )


def _bench_options(lengths: str, rounds: int) -> Callable:
    """Options that benchmarks of attention have in common."""
    options = [
        click.option(
            "--lengths", default=lengths, show_default=True, help="Tokens of a sequence; 1k is 1,024."
        ),
        click.option("--rounds", default=rounds, show_default=True, type=click.IntRange(1)),
        click.option(
            "--longest-dense",
            metavar="LENGTH",
            help="Leave out what grows with the square of the length beyond this one.",
        ),
        click.option("--dtype", default="fp32", show_default=True, help="fp32, bf16 or fp16."),
        click.option("--device", help="cpu or cuda.  [default: a GPU where there is one]"),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
        click.option("--plot", metavar="FILE.png", help="Draw what was measured."),
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
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    help="May be repeated.  [default: neighbour(64) | global(cls)]",
)
@click.option(
    "--contender", "contenders", multiple=True, help="One of those compared; may be repeated.  [default: all]"
)
@click.option("--heads", default=12, show_default=True, type=click.IntRange(1))
@click.option("--width", default=64, show_default=True, type=click.IntRange(1), help="Of a head.")
@_bench_options("512,1k,2k,4k", rounds=7)
def bench_attention(
    patterns: tuple[str, ...], contenders: tuple[str, ...], heads: int, width: int, **options: object
) -> None:
    """One attention layer's core: time and memory of our kernels beside those of others.

    Others are dense attention, the same with a mask, FlexAttention, and the layers of Longformer and BigBird
    without their projections. The floor is dense attention's time times the density.
    """
    from sparsebert.bench import attention as benchmark

    own = {
        "pattern": list(patterns) or benchmark.PATTERN,
        "contenders": list(contenders) or benchmark.CONTENDERS,
        "heads": heads,
        "width": width,
    }
    _bench(benchmark.attention_rows, benchmark.COLUMNS, benchmark.as_text, own, **options)


@bench.command(name="model", epilog="Example: sparsebert bench model --encoder bert-base --lengths 512,2k")
@click.option("--plan", help="[default: neighbour(64) | global(cls)]")
@click.option(
    "--encoder",
    default="minilm",
    show_default=True,
    help="See `sparsebert encoders`; or bert-base, random weights of that size.",
)
@click.option(
    "--mode", "modes", multiple=True, help="training or inference; may be repeated.  [default: both]"
)
@click.option("--tokens", type=click.IntRange(1), help="Of a step.  [default: the longest length]")
@_bench_options("512,1k,2k,4k,8k", rounds=3)
def bench_model(
    plan: str | None, encoder: str, modes: tuple[str, ...], tokens: int | None, **options: object
) -> None:
    """A whole encoder, training and inference, dense and under a plan: tokens per second and memory.

    Also where the time goes: attention's core, projections, feed-forward and the rest.
    """
    from sparsebert.bench import models as benchmark

    own = {
        "plan": plan or benchmark.PLAN,
        "encoder": encoder,
        "modes": list(modes) or benchmark.MODES,
        "tokens": tokens,
    }
    _bench(benchmark.model_rows, benchmark.COLUMNS, benchmark.as_text, own, **options)


def _bench(
    measure: Callable,
    columns: tuple[str, ...],
    as_text: Callable,
    own: dict[str, object],
    *,
    lengths: str,
    longest_dense: str | None,
    plot: str | None,
    as_json: bool,
    **common: object,
) -> None:
    """Measure, print and draw; after Ctrl-C, what was measured until then, and exit code 130."""
    import pandas as pd

    from sparsebert.bench.measuring import costs_json, parse_lengths, provenance
    from sparsebert.figures.costs import check_plot, draw_costs

    given = own | common | {"lengths": parse_lengths(lengths)}
    if longest_dense:
        given["longest_dense"] = parse_lengths(longest_dense, "--longest-dense")[-1]
    if plot:
        check_plot(plot)
    rows, interrupted = [], False
    try:
        for row in measure(**given):
            rows.append(row)
    except KeyboardInterrupt:
        interrupted = True
    if rows:
        frame = pd.DataFrame(rows, columns=list(columns))
        if as_json:
            click.echo(costs_json(frame, provenance(**given, interrupted=interrupted)), nl=False)
        else:
            click.echo(as_text(frame))
            where = provenance(**given)
            click.echo(f"\n({common['rounds']} rounds, {where['device']}, {common['dtype']})")
        if plot:
            draw_costs(frame, plot)
            click.echo(f"drawn in {plot}", err=True)
    if interrupted:
        click.echo("interrupted: lengths that were not finished are left out", err=True)
        raise SystemExit(130)
