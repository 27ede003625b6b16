"""What can be asked for, and what this machine can do."""

from __future__ import annotations

from typing import Any

import click

from sparsebert.cli.group import main
from sparsebert.cli.options import answer, json_option
from sparsebert.registry import first_paragraph


@main.command()
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks."""
    from sparsebert.data.tasks import get_task, task_names

    own = "your own data"  # file:PATH stands for any file
    _listing({n: own if n.endswith(":PATH") else get_task(n).summary for n in task_names()}, as_json)


@main.command()
@click.option("--get", "name", metavar="NAME", help="Fetch this packaged encoder now, and say where it is.")
@json_option
def encoders(name: str | None, as_json: bool) -> None:
    """List encoders, and architectures that can be sparsified."""
    from sparsebert.errors import check_names
    from sparsebert.models.architectures import ARCHITECTURES
    from sparsebert.models.packaged import ENCODERS

    if name is not None:
        check_names("packaged encoder", [name], ENCODERS)
        folder = ENCODERS[name].get()
        answer(as_json, ENCODERS[name].described(), folder)
        return
    hub, local = "any encoder of the Hugging Face hub", "a local folder with a saved encoder"
    packaged = {name: encoder.described() if as_json else str(encoder) for name, encoder in ENCODERS.items()}
    _listing(packaged | {"HUB/NAME": hub, "FOLDER": local}, as_json)
    if not as_json:
        terms = "Safetensors only; code that comes with a model is never run."
        click.echo(f"\nArchitectures: {', '.join(ARCHITECTURES)}. {terms}")


@main.command(
    epilog="Example: sparsebert patterns 'syntax | global(cls)' "
    "--sentence 'The film was not as bad as they say.'"
)
@click.argument("pattern", required=False)
@click.option(
    "--sentence", default="A gorgeous, witty, seductive movie.", help="Sentence that the pattern is drawn on."
)
@click.option("--encoder", default="minilm", help="Encoder whose tokenizer splits the sentence.")
def patterns(pattern: str | None, sentence: str, encoder: str) -> None:
    """List the patterns, or draw PATTERN on a sentence.

    The drawing has a row for each query and a mark for each key that it may attend to.
    """
    from sparsebert.patterns import PATTERNS, parse_pattern

    if pattern is None:
        _listing({kind.signature(): first_paragraph(kind.__doc__) for kind in PATTERNS.values()})
        click.echo("\nJoin patterns with |, take one away with -. A plan places them at layers:")
        placements = "(all, early, late, 3, 3-5, 3-; the rest dense)"
        click.echo(f"  neighbour(2) | global(cls) @ late; syntax @ 0-1     {placements}")
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


@main.command()
@click.argument("name", required=False)
@json_option
def reductions(name: str | None, as_json: bool) -> None:
    """List the ways to let tokens leave between the layers.

    With NAME, list the settings of one of them.
    """
    from sparsebert.reductions import REDUCTIONS

    if name is None:
        _listing({kind.name: first_paragraph(kind.__doc__) for kind in REDUCTIONS.values()}, as_json)
        return
    fields = REDUCTIONS[name].Settings.model_fields
    _listing(
        {field: f"{how.description}  [default: {how.default}]" for field, how in fields.items()}, as_json
    )


@main.command()
def doctor() -> None:
    """Say what this machine can do."""
    from sparsebert.doctor import examine

    for what, found in examine():
        click.echo(f"{what:>12}  {found}")


def _listing(entries: dict[str, Any], as_json: bool = False) -> None:
    width = max(map(len, entries))
    lines = [f"{name:<{width}}  {' '.join(str(text).split())}" for name, text in entries.items()]
    answer(as_json, entries, "\n".join(lines))
