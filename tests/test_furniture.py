"""What surrounds the chapters: the package reference, downloads that stand alone, links, dates, printing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from click.testing import CliRunner
from conftest import CHAPTERS, LESSONS

import sparsebert
from sparsebert.chapters import site
from sparsebert.chapters.downloads import plain_markdown, standalone
from sparsebert.chapters.notebooks import read_notebook
from sparsebert.chapters.reference import entries, field_lines, in_rst, reference_page, with_reference
from sparsebert.chapters.rendering import find_browser, print_page
from sparsebert.errors import ChapterError, InputError

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)


def link(role: str, content: str) -> str:
    return f"<{role} {content}>"


# ---- the reference ---------------------------------------------------------------------------------


def test_the_reference_has_every_public_name_once_under_what_a_user_imports():
    page = reference_page()
    for name in sparsebert.__all__:
        if name != "__version__":
            assert len(re.findall(rf"^\.\. auto\w+:: sparsebert\.{name}$", page, re.MULTILINE)) == 1, name
    assert all(entry.chapters for entry in entries() if entry.name != "InputError")


@NOTEBOOKS
def test_each_chapter_ends_with_links_to_the_names_it_explains_and_uses(notebook):
    number = notebook.stem[:2]
    last = with_reference(read_notebook(notebook), number, entries()).cells[-1].source
    assert last.startswith("## In the package")
    explained = last.partition("Used here")[0]
    assert all(f"<{entry.path}>" in explained for entry in entries() if number in entry.chapters)


def test_a_docstring_becomes_restructuredtext_with_links():
    lines = [
        "`k` keys of a `Plan`, see ``code``.",
        "Chapter 01 explains it; chapters 02 and 03",
        "explain more.",
    ]
    pages = {"01": "notebooks/01_a", "02": "notebooks/02_b"}
    assert in_rst(lines, pages, {"Plan": "sparsebert.Plan"}) == [
        "``k`` keys of a :py:obj:`Plan <sparsebert.Plan>`, see ``code``.",
        ":doc:`Chapter 01 </notebooks/01_a>` explains it; chapters :doc:`02 </notebooks/02_b>` and 03",
        "explain more.",
    ]


def test_fields_of_a_config_are_listed_with_what_they_mean():
    said = "\n".join(field_lines(sparsebert.RunConfig))
    assert all(f"- **{name}**: " in said for name in ("task", "plan", "seed"))
    assert field_lines(sparsebert.Plan) == []


# ---- downloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("See {doc}`the\nother <a>`, `{doc}`.", "See <doc the other <a>>, `{doc}`."),
        ("(a-label)=\n# Title", "# Title"),
        ("```python\nx = '{doc}`a`'\n```", "```python\nx = '{doc}`a`'\n```"),
        (":::{exercise} Why {term}`so`?\n:label: ex\n\nSay.\n:::", "**Exercise: Why <term so>?**\n\nSay."),
        ("```{solution-start} ex\n```", "**Solution**"),
        ("A\n\n```{solution-end}\n```", "A"),
        (":::{admonition} Fair {ref}`x`\n:class: tip\nA\n\nB\n:::", "> **Fair <ref x>**\n>\n> A\n>\n> B"),
        ("::::{admonition} A\n:::{admonition} B\nin\n:::\n::::", "> **A**\n>\n> > **B**\n> >\n> > in"),
        (
            "````{dropdown} More\n:open:\n\n```python\n1\n```\n````\nAfter",
            "<details>\n<summary>More</summary>\n\n```python\n1\n```\n\n</details>\nAfter",
        ),
        ("```{unknown} a\nits content\n```", "its content"),
        ("```{exercise}\nnever closed", "**Exercise**\n\nnever closed"),
    ],
)
def test_myst_becomes_markdown_that_every_program_shows(myst, plain):
    assert plain_markdown(myst, link) == plain


@pytest.mark.parametrize("notebook", [*CHAPTERS, *LESSONS], ids=lambda path: path.stem)
def test_no_download_has_roles_directives_or_labels_left(notebook):
    book = standalone(read_notebook(notebook), link, "", "main")
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            left = r"\{(doc|ref|term|numref|eq|(glue|cite|py):\w+)\}|^\(.*\)=$|^:::"
            assert not re.search(left, prose, re.MULTILINE), cell.source
            assert not re.search(r"^```+\{", cell.source, re.MULTILINE), cell.source


def test_glued_numbers_are_written_out_and_shown_markdown_is_plain():
    glued = nbformat.v4.new_output(
        "display_data",
        {"application/papermill.record/text/plain": "'3 runs'"},
        metadata={"scrapbook": {"name": "spent"}},
    )
    shown = nbformat.v4.new_output("display_data", {"text/markdown": "see {doc}`a`"})
    cells = [
        nbformat.v4.new_markdown_cell("took {glue:text}`spent`"),
        nbformat.v4.new_code_cell("x", outputs=[glued, shown]),
    ]
    book = standalone(nbformat.v4.new_notebook(cells=cells), link, "", "main")
    assert book.cells[1].source == "took 3 runs"
    assert book.cells[2].outputs[1].data["text/markdown"] == "see <doc a>"


def first_cell(repository: str) -> str:
    return standalone(nbformat.v4.new_notebook(), link, repository, "main").cells[0].source


def test_a_download_does_nothing_where_the_package_is_installed(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it installs"))
    for repository in ("", "https://github.com/someone/project"):
        exec(first_cell(repository), {})


def test_without_an_address_a_download_says_how_to_install_by_hand(tmp_path):
    code = f"import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\n{first_cell('')}"
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 1
    assert "pip install --editable '.[book]'" in told.stderr.splitlines()[-1]


def test_with_an_address_a_download_installs_a_clone_and_finds_it(tmp_path):
    origin = tmp_path / "origin"
    (origin / "sparsebert").mkdir(parents=True)
    (origin / "sparsebert" / "__init__.py").write_text("here = 'the clone'")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "x"], check=True)
    code = f"""
import subprocess
run, asked = subprocess.run, []
def recorded(command, **how):
    return run(command, **how) if command[0] == "git" else asked.append(command[1:])
subprocess.run = recorded
{first_cell(origin.as_uri())}
import sparsebert
print(sparsebert.here, asked)
"""
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    pip = ["-m", "pip", "install", "--quiet", "--editable", "sparsebert-book[book]"]
    assert told.stdout == f"the clone {[pip]}\n", told.stderr


# ---- address, dates, MathJax ------------------------------------------------------------------


def configured(monkeypatch, in_config="", in_environment="", baseurl=""):
    monkeypatch.setenv("SPARSEBERT_REPOSITORY", in_environment)
    options = {"repository_url": in_config}
    config = SimpleNamespace(html_theme_options=options, html_baseurl=baseurl, myst_substitutions={})
    site._address(None, config)
    return config


def test_without_an_address_there_are_no_buttons(monkeypatch):
    config = configured(monkeypatch)
    assert set(config.html_theme_options.values()) == {"", False}
    assert config.html_baseurl == ""


def test_one_address_switches_all_on_and_the_environment_has_the_last_word(monkeypatch):
    config = configured(monkeypatch, "https://github.com/Some-One/project.git")
    assert config.html_theme_options["repository_url"] == "https://github.com/Some-One/project"
    assert config.html_theme_options["use_source_button"] is True
    assert "https://github.com/Some-One/project" in config.myst_substitutions["source"]
    assert config.html_baseurl == "https://some-one.github.io/project/"
    config = configured(monkeypatch, "https://github.com/a/b", "https://gitlab.com/c/d/", "https://own.org")
    assert config.html_theme_options["repository_url"] == "https://gitlab.com/c/d"
    assert config.html_baseurl == "https://own.org"


@pytest.mark.parametrize(("page", "buttons"), [("notebooks/01_a", 1), ("intro", 0)])
def test_chapters_open_on_colab_and_binder(monkeypatch, page, buttons):
    app = SimpleNamespace(config=configured(monkeypatch, "https://github.com/a/b"))
    context = {"header_buttons": []}
    site._launch_buttons(app, page, "", context, None)
    assert len(context["header_buttons"]) == buttons
    for group in context["header_buttons"]:
        assert [button["url"] for button in group["buttons"]] == [
            "https://colab.research.google.com/github/a/b/blob/notebooks/01_a.ipynb",
            "https://mybinder.org/v2/gh/a/b/notebooks?urlpath=lab/tree/01_a.ipynb",
        ]


def test_pages_know_their_file_and_the_day_of_its_last_commit(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text("a")
    files = [tmp_path / "book" / "intro.md"]
    site.write_pages(tmp_path, tmp_path, files)
    assert yaml.safe_load((tmp_path / site.PAGES).read_text()) == {"intro": {"file": "book/intro.md"}}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "book"], check=True)
    day = {"GIT_COMMITTER_DATE": "2020-02-03T12:00:00", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    subprocess.run([*git, "commit", "--quiet", "-m", "x"], check=True, env=day)
    site.write_pages(tmp_path, tmp_path, files)
    pages = yaml.safe_load((tmp_path / site.PAGES).read_text())
    assert pages == {"intro": {"file": "book/intro.md", "updated": "2020-02-03"}}


def test_of_mathjax_what_our_pages_load_stays(tmp_path):
    loaded = ["tex-chtml.js", "sre/mathmaps/en.json", "input/tex/extensions/cancel.js"]
    loaded += ["output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2/MathJax_Zero.woff"]
    for name in (*loaded, "tex-mml-svg.js", "sre/mathmaps/de.json", "output/svg/fonts/tex.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    site.trim_mathjax(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(loaded)


# ---- printing --------------------------------------------------------------------------------------


def test_without_chromium_make_pdf_says_so_before_anything_is_made(tmp_path, monkeypatch):
    from sparsebert.cli import main

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="apt install chromium"):
        find_browser()
    monkeypatch.setenv("SPARSEBERT_BROWSER", "my-chrome")
    with pytest.raises(InputError, match="names 'my-chrome', which is none"):
        find_browser()
    told = CliRunner().invoke(main, ["book", "--pdf"])
    assert told.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_browser_is_the_one_that_is_named(tmp_path, monkeypatch):
    for name in ("chromium", "my-chrome"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SPARSEBERT_BROWSER", raising=False)
    assert find_browser() == str(tmp_path / "chromium")
    monkeypatch.setenv("SPARSEBERT_BROWSER", "my-chrome")
    assert find_browser() == str(tmp_path / "my-chrome")


def test_a_browser_that_fails_is_one_sentence(tmp_path):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho first\necho it broke\n")
    browser.chmod(0o755)
    with pytest.raises(ChapterError, match=r"could not print .*index\.html: it broke$"):
        print_page(str(browser), tmp_path / "index.html", tmp_path / "out.pdf")
    assert not (tmp_path / "out.pdf").exists()


# ---- files for GitHub ------------------------------------------------------------------------------


def test_the_citation_names_the_version_and_the_paper():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == sparsebert.__version__
    assert citation["references"][0]["title"].startswith("Breaking BERT")


def test_workflows_call_commands_of_the_makefile_and_name_no_repository():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    workflows = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
    assert [path.stem for path in workflows] == ["book", "pages", "test"]
    for path in workflows:
        text = path.read_text()
        assert "jobs" in yaml.safe_load(text)
        assert set(re.findall(r"make ([a-z]+)", text)) <= targets
        assert "github.com/" not in text
