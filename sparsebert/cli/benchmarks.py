"""Costs, side by side in one run."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import click

from sparsebert.bench import PLAN
from sparsebert.cli.group import main
from sparsebert.cli.options import json_option, lengths_of
from sparsebert.paths import output_file, write_whole

_COUNT = click.IntRange(1)


@main.group()
def bench() -> None:
    """Measure side by side, in one run, as ratios."""


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
        click.Option(["--out"], metavar="FILE.json", help=again),
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
    """Time and memory of one attention layer's core.

    Our kernels stand beside other implementations: these are dense attention, the same with a mask,
    FlexAttention, the windows of torch's varlen_attn and of NATTEN on a GPU, and the layers of Longformer
    and BigBird without their projections. The floor is dense attention's time times the density.
    """
    from sparsebert.bench import attention

    _bench(attention.as_text, attention.attention_rows, "pattern", **options)


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
    """Speed and memory of a whole encoder, dense and under a plan.

    Training and inference, in tokens per second, and where the time goes: attention's core, projections,
    feed-forward and the rest. With --reduce tokens leave under the plan, such as --plan dense --reduce
    'lat(keep=0.5 @ 1)'.
    """
    from sparsebert.bench import models

    options["tokens"] = options["tokens"] or max(options["lengths"])  # so that a file says it
    _bench(models.as_text, models.model_rows, "mode", **options)


def _bench(
    as_text: Callable,
    measure: Callable,
    kind: str,
    longest_dense: list[int],
    plot: str | None,
    out: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure, print and draw; after Ctrl-C, what was measured until then, and exit code 130.

    A row of `measure` is known by its `kind`, length and contender.
    """
    import pandas as pd

    from sparsebert.bench.measuring import costs_json, kept_rows, provenance

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if longest_dense:
        given["longest_dense"] = longest_dense[-1]
    if plot:
        from sparsebert.figures import costs

        costs.check_plot(plot, given.get("contenders"))
    path, interrupted = output_file(out, "--out") if out else None, False
    key = itemgetter(kind, "length", "contender")
    rows = {key(row): row for row in (kept_rows(path, provenance(**given)) if path else ())}
    had = len(rows)

    def content(interrupted: bool) -> str:
        where = provenance(**given | {"lengths": sorted({row["length"] for row in rows.values()})})
        return costs_json(pd.DataFrame(rows.values()), where | {"interrupted": interrupted})

    try:
        for row in measure(**given, done=frozenset(rows)):
            rows[key(row)] = row
            if path:
                write_whole(path, content(interrupted=True))
    except KeyboardInterrupt:
        interrupted = True
    if path and len(rows) > had and not interrupted:
        write_whole(path, content(interrupted))
    elif path and not interrupted:
        click.echo(f"{out} has all of these lengths", err=True)
    if rows:
        frame = pd.DataFrame(rows.values())
        if as_json:
            click.echo(path.read_text() if path else content(interrupted), nl=False)
        else:
            click.echo(as_text(frame))
            click.echo(f"\n({options['rounds']} rounds, {provenance(**given)['device']}, {options['dtype']})")
        if plot:
            costs.draw_costs(frame, plot)
            click.echo(f"drawn in {plot}", err=True)
    if interrupted:
        click.echo("interrupted: lengths that were not finished are left out", err=True)
        raise SystemExit(130)
