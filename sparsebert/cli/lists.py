"""What can be asked for, and what this machine can do."""

from __future__ import annotations

import json

import click

from sparsebert.cli.options import json_option


@click.command()
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks."""
    from sparsebert.data.tasks import get_task, task_names

    own = "your own data"  # file:PATH stands for any file
    _listing({n: own if n.endswith(":PATH") else get_task(n).summary for n in task_names()}, as_json)


@click.command()
@click.option("--get", "name", metavar="NAME", help="Fetch this packaged encoder now, and say where it is.")
@json_option
def encoders(name: str | None, as_json: bool) -> None:
    """List the packaged encoders and the architectures that can be sparsified."""
    from sparsebert.errors import unknown_name
    from sparsebert.models.architectures import ARCHITECTURES
    from sparsebert.models.packaged import ENCODERS

    if name is not None:
        if name not in ENCODERS:
            raise unknown_name("packaged encoder", name, ENCODERS)
        folder = ENCODERS[name].get()
        click.echo(json.dumps(ENCODERS[name].described(), indent=1) if as_json else folder)
        return
    others = {
        "HUB/NAME": "any encoder of the Hugging Face hub",
        "FOLDER": "a local folder with a saved encoder",
    }
    if as_json:
        packaged = {name: encoder.described() for name, encoder in ENCODERS.items()}
        click.echo(json.dumps(packaged | others, indent=1))
        return
    _listing({name: str(encoder) for name, encoder in ENCODERS.items()} | others, False)
    click.echo(
        f"\nArchitectures: {', '.join(ARCHITECTURES)}. "
        "Safetensors only; code that comes with a model is never run."
    )


@click.command(
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
        _listing({kind.signature(): kind.summary() for kind in PATTERNS.values()}, False)
        click.echo("\nJoin patterns with |, take one away with -. A plan places them at layers:")
        click.echo(
            "  neighbour(2) | global(cls) @ late; syntax @ 0-1     "
            "(all, early, late, 3, 3-5, 3-; the rest dense)"
        )
        return
    from sparsebert.data.tokenizing import one_sentence

    parsed = parse_pattern(pattern)
    tokens, batch = one_sentence(sentence, encoder, parsed.needs)
    allowed = parsed.at(0).allowed(batch)[0, 0]
    width = max(map(len, tokens))
    click.echo(str(parsed) + " at layer 0, head 0" * any(part.learns for part in parsed.walk()))
    for token, row in zip(tokens, allowed.tolist(), strict=True):
        click.echo(f"{token:>{width}}  {' '.join('■' if may else '·' for may in row)}  degree {sum(row) - 1}")
    click.echo(f"density {allowed.float().mean():.3f}")


@click.command()
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
