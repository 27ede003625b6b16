"""What is made of all registered patterns: figures and the tables of claims."""

from __future__ import annotations

import pytest

from sparsebert.figures.look import looks_of
from sparsebert.patterns import PATTERNS, Dense, Global, parse_pattern
from sparsebert.study.claims.runs import _described

ALONE = [kind for kind in PATTERNS.values() if kind not in (Dense, Global)]


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.name)
def test_a_pattern_looks_like_its_family_in_every_figure_and_so_does_its_control(kind):
    pattern = kind.examples[0]
    control = f"random(like={pattern}, besides=global(cls)) | global(cls)"
    looks = looks_of([f"{pattern} | global(cls)", control])
    own, matched = looks.values()
    assert own["label"] == matched["label"] == pattern
    assert (own["color"], own["marker"]) == (matched["color"], matched["marker"])
    assert (own["fillstyle"], matched["fillstyle"]) == ("full", "none")
    if kind.family.colour:
        assert (own["color"], own["marker"]) == (kind.family.colour, kind.family.marker)


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.name)
def test_a_run_with_a_pattern_beside_cls_is_of_its_family_to_the_rules(kind):
    run = _described(parse_pattern(f"{kind.examples[0]} | global(cls)"))
    assert (run["kind"], run["family"]) == (kind.family.kind, kind.family.label)
