"""`sparsebert ...`: the command line.

Modules are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from sparsebert import __version__
from sparsebert.errors import InputError


class _Kind(click.Group):
    """A group that answers wrong input with one sentence and exit code 2, a failed chapter with code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("sparsebert"):
                raise
            failure = click.ClickException(f"this needs the package {error.name}, which is not installed")
            failure.exit_code = 2
            raise failure from error
        except RuntimeError as error:
            if type(error).__name__ != "ChapterError":
                raise
            raise click.ClickException(str(error)) from None


class _RunCommand(click.Command):
    """A command with one option for each field of `RunConfig`, handed to it as the dictionary `fields`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self._run_options(), *super().get_params(ctx)]

    def _run_options(self) -> list[click.Parameter]:
        from sparsebert.runs import RunConfig

        fields = {name: field for name, field in RunConfig.model_fields.items() if name != "degrees"}
        learn = click.Option(
            ["--learn-degrees"],
            is_flag=True,
            expose_value=False,
            callback=_collect,
            help="Learn the degrees of the pattern `learned`; the plan is then by default "
            "'learned | global(cls)'. The options below say how, and each implies this one.",
        )
        return [
            *_options(fields, _collect),
            learn,
            *_options(RunConfig.degree_fields(), _collect_degrees),
        ]


def _options(fields: dict, callback: Callable) -> list[click.Option]:
    """An option for each field of a pydantic model."""
    return [
        click.Option(
            [f"--{name.replace('_', '-')}", name],
            help=field.description + ("" if field.default is None else f"  [default: {field.default}]"),
            metavar="TEXT" if field.annotation is str else "VALUE",
            expose_value=False,
            callback=callback,
        )
        for name, field in fields.items()
    ]


def _collect(ctx: click.Context, option: click.Parameter, value: str | bool | None) -> None:
    if value:
        ctx.ensure_object(dict).setdefault("fields", {})[option.name] = value


def _collect_degrees(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(dict).setdefault("degrees", {})[option.name] = value


def _config(ctx: click.Context, **defaults: object):
    from sparsebert.runs import RunConfig

    given = ctx.obj or {}
    fields, degrees = dict(given.get("fields", {})), given.get("degrees", {})
    if fields.pop("learn_degrees", False) or degrees:
        defaults |= {"plan": "learned | global(cls)", "degrees": degrees}
    return RunConfig.checked(**defaults | fields)


def _from_prepared(ctx: click.Context, option: click.Parameter, folder: str | None) -> None:
    """Name the folder to this process and those it starts, until the command ends."""
    if folder is None:
        return
    before = os.environ.get("SPARSEBERT_PREPARED_DIR")
    os.environ["SPARSEBERT_PREPARED_DIR"] = str(Path(folder).expanduser().absolute())

    def restore() -> None:
        del os.environ["SPARSEBERT_PREPARED_DIR"]
        if before is not None:
            os.environ["SPARSEBERT_PREPARED_DIR"] = before

    ctx.call_on_close(restore)


_prepared = click.option(
    "--prepared",
    metavar="DIR",
    expose_value=False,
    callback=_from_prepared,
    help="Read tasks from what `sparsebert prepare` wrote there; or set SPARSEBERT_PREPARED_DIR.",
)
_data_dir = click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder with GLUE tasks and IMDB (SST-2/, MRPC/, ...); or set SPARSEBERT_DATA_DIR.",
)
_runs_dir = click.option(
    "--runs-dir", metavar="DIR", help="Folder of run records; or set SPARSEBERT_RUNS_DIR.  [default: runs/]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@click.group(cls=_Kind, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sparsebert")
def main() -> None:
    """Which attention connections does an encoder need, how many, and can they be learned?

    Start with `sparsebert doctor`, then `sparsebert book` (the whole book) or `sparsebert run NOTEBOOK`
    (one chapter with your parameters) or `sparsebert finetune` (one run).
    """


@main.command(
    cls=_RunCommand,
    epilog="Example: sparsebert finetune --task reviews "
    "--plan 'neighbour(2) | global(cls) @ late' --train-size 3000",
)
@_data_dir
@_prepared
@_runs_dir
@click.option("--save", metavar="FOLDER", help="Keep the model there, with its plan and its degrees.")
@_json
@click.pass_context
def finetune(
    ctx: click.Context, data_dir: str | None, runs_dir: str | None, save: str | None, as_json: bool
) -> None:
    """Fine-tune an encoder under a plan, evaluate it under the same plan and record the run.

    A run that was recorded before is found again; one that was interrupted goes on from its checkpoint.
    Times, memory, device, versions and the data's hash are in the record.
    """
    config = _config(ctx)
    from sparsebert.finetune import processes
    from sparsebert.runs import RunStore
    from sparsebert.sweeps import describe, run

    store = RunStore(runs_dir)
    record, found = run(config, store, data_dir, save_to=Path(save).expanduser() if save else None)
    if not processes().is_main_process:
        return
    if as_json:
        click.echo(record.model_dump_json(indent=1))
    else:
        layers = " ".join(f"{density:.3f}" for density in record.density_per_layer)
        click.echo(describe(record) + (" (found in the store)" if found else ""))
        click.echo(f"density per layer {layers}; over the padded square {record.padded_density:.3f}")
        click.echo(
            f"{record.examples_per_second['train']:.0f} training examples per second on {record.device}"
        )
        if learning := record.learning:
            click.echo(
                f"layers that learned: density {learning.hard_density:.3f}"
                + (f", before hardening {learning.soft_density:.3f}" if learning.soft_density else "")
                + (f", asked for {learning.target_density:g}" if learning.target_density else "")
            )
        click.echo(f"recorded in {store.folder / record.name}.json")
        if save:
            click.echo(f"saved in {save}; try: sparsebert evaluate {save}")


@main.command(epilog="Example: sparsebert sweep book/grids/first.yaml --executor processes --budget 2h")
@click.argument("grid")
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Of the grid, the runs with this value; may be repeated, and values of one field are alternatives.",
)
@click.option("--dry-run", is_flag=True, help="Print the runs and an estimate of their time; train nothing.")
@click.option(
    "--budget",
    metavar="TIME",
    help="Such as 2h, 90min or 1h30m: start no run that is expected to end later; those running end.",
)
@click.option(
    "--executor",
    "kind",
    default="inline",
    show_default=True,
    help="Where runs are trained: inline (one after the other), processes (several on this machine) or dask.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that share the cores or GPUs.  [default: one for a GPU, else one per core, up to 4]",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Where the Dask cluster's scheduler answers.")
@_data_dir
@_prepared
@_runs_dir
@_json
def sweep(
    grid: str,
    only: tuple[str, ...],
    dry_run: bool,
    budget: str | None,
    kind: str,
    workers: int | None,
    scheduler: str | None,
    data_dir: str | None,
    runs_dir: str | None,
    as_json: bool,
) -> None:
    """Train the runs of a grid that are not recorded yet; GRID is a YAML file over the fields of a run.

    Lists multiply; zip, exclude and grids are explained in the book. All runs are checked before the first
    one starts. Stopped in any way, the same command goes on. Runs that fail are listed at the end (exit code
    1), with their reasons in runs/failed/.
    """
    from sparsebert import grids

    configs, seconds = grids.only(grids.load_grid(grid), only), _duration(budget)
    from sparsebert import sweeps
    from sparsebert.executors import open_executor
    from sparsebert.runs import RunStore

    store = RunStore(runs_dir)
    with open_executor(kind, workers, scheduler) as executor:
        if dry_run:
            plan = sweeps.forecast(configs, store, data_dir, executor)
            click.echo(json.dumps(plan.as_dict(), indent=1) if as_json else str(plan))
            return
        try:
            result = sweeps.sweep(configs, store, data_dir, executor, seconds)
        except KeyboardInterrupt:
            click.echo("interrupted: finished runs are recorded, and the same command goes on", err=True)
            raise SystemExit(130) from None
    click.echo(json.dumps(result.as_dict(), indent=1) if as_json else str(result))
    if result.failed or result.cut_off:
        raise SystemExit(1)


def _duration(text: str | None) -> float | None:
    """Seconds of a time such as 2h or 1h30m."""
    if text is None:
        return None
    number = r"(\d+(?:\.\d+)?)\s*"
    parts = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", text.strip().lower())
    seconds = (
        sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
        if parts
        else 0
    )
    if not seconds:
        raise InputError(f"--budget {text}: write a time with its unit, such as 2h, 90min or 1h30m")
    return seconds


@main.command(
    epilog="Example: sparsebert prepare glue/sst2 glue/mrpc --encoder minilm --out prepared --parsed"
)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--encoder", default="minilm", show_default=True, help="Encoder whose tokens are written.")
@click.option(
    "--out", required=True, metavar="DIR", help="Folder of prepared data; each task has its own in it."
)
@click.option(
    "--max-length",
    type=click.IntRange(4),
    help="Tokens a row is cut to.  [default: the task's, within the encoder's positions]",
)
@click.option(
    "--train-size", type=click.IntRange(1), help="Training rows that runs can ask for.  [default: all]"
)
@click.option("--eval-size", type=click.IntRange(1), help="Evaluation rows likewise.  [default: all]")
@click.option("--parsed", is_flag=True, help="With parses, which plans with `syntax` read; takes its time.")
@_data_dir
def prepare(tasks: tuple[str, ...], out: str, data_dir: str | None, **how: object) -> None:
    """Write tasks as tokens, for `finetune` and `sweep` on a machine without their texts.

    That machine needs neither a network nor spaCy or datasets. Runs there are the same, with the same names.
    """
    from sparsebert.prepare import write_prepared
    from sparsebert.tasks import get_task

    found = [get_task(name, data_dir) for name in tasks]
    for task in found:
        started = time.perf_counter()
        place = write_prepared(task, folder=out, progress=_say, **how)
        size = sum(path.stat().st_size for path in place.iterdir())
        click.echo(f"{task.name}: {place} ({_mib(size)}, {time.perf_counter() - started:.0f} s)")


@main.command(epilog="Example: sparsebert bundle book/grids/first.yaml --out bundle.tar.gz --part-size 60")
@click.argument("grid")
@click.option("--out", required=True, metavar="FILE.tar.gz")
@click.option(
    "--prepared", metavar="DIR", help="Take prepared data from there, and write there what it lacks."
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="VERSION",
    help="Bring wheels for that Python on x86-64 Linux; may be repeated.  [default: 3.11 and 3.12]",
)
@click.option("--no-wheels", is_flag=True, help="The machine has accelerate, click, jaxtyping and pydantic.")
@click.option(
    "--part-size", type=click.IntRange(1), metavar="MIB", help="Cut the archive into files of this size."
)
@_data_dir
def bundle(
    grid: str,
    out: str,
    prepared: str | None,
    pythons: tuple[str, ...],
    no_wheels: bool,
    part_size: int | None,
    data_dir: str | None,
) -> None:
    """Pack a grid with the package, its encoders and its data, for a machine with torch and transformers.

    There, unpack it and call `sh sparsebert-bundle/run.sh`; `sparsebert results merge` adds what comes
    back to the recorded runs.
    """
    from sparsebert.bundle import PYTHONS
    from sparsebert.bundle import bundle as pack

    wheels = () if no_wheels else pythons or PYTHONS
    parts = pack(grid, out, data_dir, prepared, wheels, part_size, _say)
    size = sum(path.stat().st_size for path in parts)
    if part_size:
        click.echo(f"{len(parts)} parts, {_mib(size)}; join them with: cat {Path(out).name}.part-* | tar xz")
    else:
        click.echo(f"{parts[0]} ({_mib(size)}); unpack it with: tar xzf {parts[0].name}")
        if size > 64 * 2**20:
            click.echo("some machines take 64 MiB at a time: --part-size 60 cuts it")
    click.echo("then: sh sparsebert-bundle/run.sh")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


@main.command(epilog="Example: sparsebert evaluate my-model --json")
@click.argument("folder")
@click.option("--task", help="Another task with the same labels.  [default: the one it was trained on]")
@click.option("--eval-size", type=click.IntRange(1), help="Rows to evaluate on.  [default: those of its run]")
@_data_dir
@_prepared
@_json
def evaluate(
    folder: str, task: str | None, eval_size: int | None, data_dir: str | None, as_json: bool
) -> None:
    """Evaluate a model that `finetune --save FOLDER` kept, under its plan and with its degrees."""
    from sparsebert import finetune as training

    result = training.evaluate(folder, task, eval_size, data_dir)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    click.echo(f"{result['task']}, {result['eval_rows']} rows: {scores}; density {result['density']:.4f}")


@main.command(
    epilog="Example: sparsebert run 03_which_connections -p task=headlines -p train_size=500 --out mine.ipynb"
)
@click.argument("notebook")
@click.option(
    "-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook; may be repeated."
)
@click.option(
    "--profile", default="quick", show_default=True, help="smoke (seconds), quick (minutes) or full (a GPU)."
)
@click.option(
    "--out", metavar="FILE.ipynb", help="The executed notebook.  [default: NOTEBOOK.executed.ipynb]"
)
@_data_dir
def run(notebook: str, given: tuple[str, ...], profile: str, out: str | None, data_dir: str | None) -> None:
    """Run one chapter's notebook with other parameters; the notebook itself is not changed.

    NOTEBOOK is a name such as 03_which_connections, or a path. Values are written as in YAML: 500, 0.1, text,
    [a, b].
    """
    values = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"-p {pair}: write a parameter as NAME=VALUE, such as -p task=headlines")
        values[name.strip()] = value
    if data_dir:
        os.environ["SPARSEBERT_DATA_DIR"] = str(Path(data_dir).expanduser().resolve())
    from sparsebert.chapters import run_notebook

    click.echo(run_notebook(notebook, values, profile=profile, out=out))


@main.command()
@click.option(
    "--profile", default="quick", show_default=True, help="smoke (seconds), quick (minutes) or full (a GPU)."
)
def book(profile: str) -> None:
    """Run every chapter that has changed and render the book; ends with the path of its index.html."""
    from sparsebert.chapters import build_book

    click.echo(build_book(profile=profile))


@main.command()
@_json
def tasks(as_json: bool) -> None:
    """List the tasks."""
    from sparsebert.tasks import get_task, task_names

    own = "your own data"  # file:PATH stands for any file
    _listing({n: own if n.endswith(":PATH") else get_task(n).summary for n in task_names()}, as_json)


@main.command()
@_json
def encoders(as_json: bool) -> None:
    """List the packaged encoders and the architectures that can be sparsified."""
    from sparsebert.attention import ARCHITECTURES
    from sparsebert.encoders import ENCODERS

    others = {
        "HUB/NAME": "any encoder of the Hugging Face hub",
        "FOLDER": "a local folder with a saved encoder",
    }
    _listing(ENCODERS | others, as_json)
    if not as_json:
        click.echo(
            f"\nArchitectures: {', '.join(ARCHITECTURES)}. "
            "Safetensors only; code that comes with a model is never run."
        )


@main.command(
    epilog="Example: sparsebert patterns 'syntax | global(cls)' "
    "--sentence 'The film was not as bad as they say.'"
)
@click.argument("pattern", required=False)
@click.option(
    "--sentence", default="A gorgeous, witty, seductive movie.", show_default=True, help="Text to draw it on."
)
@click.option("--encoder", default="minilm", show_default=True, help="Encoder whose word pieces are drawn.")
def patterns(pattern: str | None, sentence: str, encoder: str) -> None:
    """List the patterns, or draw PATTERN on a sentence: a row per query, a mark per key it may attend to."""
    from sparsebert.patterns import PATTERNS, parse_pattern

    if pattern is None:
        signs = {"neighbour": "(w)", "random": "(k, seed=0) or (like=P, besides=Q)", "global": "(cls) or (n)"}
        signs |= {"lexical": "(k)", "syntax": " or syntax(hops=n)"}
        signs |= {"learned": ' or ("FILE")', "weighted": '(P) or (P, "FILE")'}
        _listing(
            {name + signs.get(name, ""): kind.__doc__.split("\n\n")[0] for name, kind in PATTERNS.items()},
            False,
        )
        click.echo("\nJoin patterns with |, take one away with -. A plan places them at layers:")
        click.echo(
            "  neighbour(2) | global(cls) @ late; syntax @ 0-1     "
            "(all, early, late, 3, 3-5, 3-; the rest dense)"
        )
        return
    from sparsebert.prepare import one_sentence

    parsed = parse_pattern(pattern)
    tokens, batch = one_sentence(sentence, encoder, parsed.needs)
    allowed = parsed.at(0).allowed(batch)[0, 0]
    width = max(map(len, tokens))
    click.echo(
        str(parsed) + (" at layer 0, head 0" if any(hasattr(p, "path") for p in parsed.walk()) else "")
    )
    for token, row in zip(tokens, allowed.tolist(), strict=True):
        click.echo(f"{token:>{width}}  {' '.join('■' if may else '·' for may in row)}  degree {sum(row) - 1}")
    click.echo(f"density {allowed.float().mean():.3f}")


@main.group()
def results() -> None:
    """The recorded runs behind the book, in book/results/: list, check, add to them, or go on from them."""


@results.command(name="list")
@_json
def results_list(as_json: bool) -> None:
    """List the recorded runs: by file, task and plan, with their seeds, device and versions."""
    from sparsebert.results import as_text, overview

    table = overview()
    click.echo(json.dumps(table.to_dict("records"), indent=1) if as_json else as_text(table))


@results.command(name="check")
def results_check() -> None:
    """Check the recorded runs: torn lines, wrong names, runs that stand twice, data that differ.

    A line for each finding, and exit code 1 if there is one.
    """
    from sparsebert.results import check, recorded_names

    findings = check()
    for finding in findings:
        click.echo(finding)
    if findings:
        raise SystemExit(1)
    click.echo(f"sound: {', '.join(recorded_names()) or 'nothing is recorded'}")


@results.command(
    name="merge", epilog="Example: sparsebert results merge runs/ other/runs.jsonl --into connections"
)
@click.argument("files", nargs=-1, required=True)
@click.option("--into", required=True, metavar="NAME", help="Add the runs to book/results/NAME.jsonl.")
@click.option("--newest", is_flag=True, help="Of two records of one run, take the one finished last.")
def results_merge(files: tuple[str, ...], into: str, newest: bool) -> None:
    """Add runs to the recorded ones: FILES are folders of runs, .jsonl files, or records of single runs.

    A run that is there already is kept once. What is torn or no record is named and left out.
    """
    from sparsebert.results import merge

    merged = merge(files, into, newest)
    for complaint in merged.left_out:
        click.echo(f"left out: {complaint}", err=True)
    click.echo(str(merged))


@results.command(
    name="unpack", epilog="Example: sparsebert results unpack experiments --runs-dir runs/experiments"
)
@click.argument("name")
@_runs_dir
def results_unpack(name: str, runs_dir: Path | None) -> None:
    """Put the runs of book/results/NAME.jsonl into a folder of runs, so that a sweep goes on from there.

    A run that the folder has already stays as it is.
    """
    from sparsebert.results import unpack
    from sparsebert.runs import RunStore

    store = RunStore(runs_dir)
    added, total = unpack(name, store)
    click.echo(f"{total} runs of {name}: {added} put into {store.folder}, {total - added} were there")


@main.group()
def bench() -> None:
    """Measure side by side, in one run, as ratios."""


@bench.command(
    name="finetune",
    cls=_RunCommand,
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
    help="Measure at each of these numbers of tokens, on topics unless told.  [default: the task's]",
)
@_data_dir
@_json
@click.pass_context
def bench_finetune(
    ctx: click.Context, rounds: int, lengths: str | None, data_dir: str | None, as_json: bool
) -> None:
    """Training speed under a plan, dense, and of transformers' Trainer at its defaults, on the same rows."""
    plan = "neighbour(2) | global(cls)"
    if lengths is None:
        several, config = [], _config(ctx, plan=plan, train_size=800)
    else:
        from sparsebert.bench.measuring import parse_lengths
        from sparsebert.runs import RunConfig

        several, config = parse_lengths(lengths), _config(ctx, plan=plan, task="topics")
        for length in several:
            RunConfig.checked(max_length=length)
    from sparsebert.bench import finetune as benchmark

    result = benchmark.bench_finetune(config, rounds, data_dir, several)
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
        _json,
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


@main.command()
def doctor() -> None:
    """Say what this machine can do."""
    from sparsebert.doctor import examine

    for what, found in examine():
        click.echo(f"{what:>12}  {found}")


def _listing(entries: dict[str, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(entries, indent=1))
        return
    width = max(map(len, entries))
    for name, text in entries.items():
        click.echo(f"{name:<{width}}  {' '.join(text.split())}")
