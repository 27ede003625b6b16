"""What stands beside results in a chapter: names from data, and where runs come from."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sparsebert.study.captions import code, origin, plain, points_lost

MARKDOWN = MarkdownIt("commonmark", {"html": True})
MARKS = st.sampled_from(" `*_<>[]()!\\&#~|")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | MARKS)


def kinds(text: str) -> list[tuple[str, str]]:
    """The inline tokens of a paragraph in which a text stands between two words."""
    [_, inline, _] = MARKDOWN.parse(f"x{text}x")
    return [(token.type, token.content) for token in inline.children]


@given(TEXTS)
def test_a_plain_text_is_read_as_itself_whatever_it_holds(text):
    found = kinds(plain(text))
    assert {kind for kind, _ in found} <= {"text", "text_special"}
    assert "".join(content for _, content in found) == f"x{' '.join(text.split())}x"


@given(TEXTS.filter(str.strip))
def test_a_name_as_code_is_one_code_span(text):
    [_, (kind, content), _] = kinds(code(text))
    assert kind == "code_inline"
    assert content.strip() == " ".join(text.split())


@pytest.mark.parametrize("text", ["<img src=x onerror=y>", "a\n\n# b", "[x](javascript:1)", "&lt;b&gt;"])
def test_markup_from_data_is_never_live(text):
    for made in (plain(text), code(text)):
        html = MARKDOWN.render(made)
        assert set(re.findall(r"<(\w+)", html)) <= {"p", "code"}


def test_an_origin_names_days_devices_and_commits():
    one = {"finished": "2026-11-02T10:00:00+00:00", "device": "CPU, 1 threads", "commit": "abc"}
    other = {"finished": "2026-10-30T10:00:00+00:00", "device": "GPU", "commit": None}
    assert origin([one]) == "Made 2026-11-02 on CPU, 1 threads, commit abc."
    assert origin([one, other, one]) == (
        "Made 2026-10-30 to 2026-11-02 on CPU, 1 threads; GPU, commit abc; unknown."
    )
    assert origin([one | {"commit": str(n)} for n in range(5)]).endswith("commit 0; 1; 2 and 2 more.")
    assert origin([one | {"device": "<b>"}]) == "Made 2026-11-02 on \\<b\\>, commit abc."
    assert origin([]) == ""


def test_points_lost_have_an_interval_where_seeds_give_one():
    runs = pd.DataFrame({"seed": [0, 1], "loss": [0.01, 0.01]})
    assert points_lost(runs) == "1.0 points (1.0 to 1.0)"
    assert points_lost(runs[:1]) == "1.0 points" and points_lost(runs[:0]) == "– points"
