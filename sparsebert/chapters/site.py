"""The Sphinx extension behind the rendered book: its address, docstrings, dates, downloads, MathJax."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import sparsebert
from sparsebert.chapters.downloads import standalone
from sparsebert.chapters.notebooks import read_notebook, write_notebook
from sparsebert.chapters.reference import entries, field_lines, in_rst
from sparsebert.paths import write_whole
from sparsebert.reading import read_yaml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

PAGES = "pages.yml"  # for each page of the project its file and the day of its last change
NOTEBOOKS = "notebooks"  # branch of the published notebooks, which Colab and Binder open

_COLAB = "https://colab.research.google.com/github/{name}/blob/{branch}/{file}"
_BINDER = "https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{file}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, which finds this module among `extensions` in `_config.yml`."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", _address)
    app.connect("builder-inited", _read_pages)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("html-page-context", _before_the_theme, priority=400)
    app.connect("html-page-context", _launch_buttons, priority=502)
    app.connect("build-finished", _finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# ---- the repository's address ----------------------------------------------------------------------


def _address(app: Sphinx, config: Config) -> None:
    """Links to the source are there where `_config.yml` or SPARSEBERT_REPOSITORY has an address."""
    options = config.html_theme_options
    url = os.environ.get("SPARSEBERT_REPOSITORY") or options.get("repository_url") or ""
    options["repository_url"] = url = url.strip().rstrip("/").removesuffix(".git")
    for button in ("use_repository_button", "use_source_button", "use_issues_button"):
        options[button] = bool(url)
    if not config.html_baseurl and (name := _on_github(url)):
        owner, _, project = name.partition("/")
        config.html_baseurl = f"https://{owner.lower()}.github.io/{project}/"
    source = f"[its repository]({url})" if url else "the folder that this copy was built from"
    config.myst_substitutions |= {"version": sparsebert.__version__, "source": source}


def _on_github(url: str) -> str:
    """OWNER/PROJECT of an address on GitHub, else nothing."""
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)", url)
    return found[1] if found else ""


def _read_pages(app: Sphinx) -> None:
    # Sphinx forgets how HTML is written for a builder of HTML that any extension has nodes of its own for.
    written = app.registry.translation_handlers
    written["singlehtml"] = written.get("html", {}) | written.get("singlehtml", {})
    pages = Path(app.srcdir, PAGES)
    app.sparsebert_pages = read_yaml(pages) if pages.is_file() else {}


def write_pages(root: Path, source: Path, files: Iterable[Path]) -> None:
    """Notes for each page of a folder of sources which file of the project it is and when that last changed.

    The day is that of the last commit, so outside a clone there is none.
    """
    pages = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        command = ["git", "-C", str(root), "log", "-1", "--format=%cs", "--", name]
        try:
            day = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            day = ""
        page = name.removeprefix("book/").rpartition(".")[0]
        pages[page] = {"file": name} | ({"updated": day} if day else {})
    write_whole(source / PAGES, yaml.safe_dump(pages))


def _before_the_theme(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Where a page's source is and when it last changed; pages made by a build have neither."""
    known = app.sparsebert_pages.get(page, {})
    context["last_updated"] = known.get("updated")
    if "file" in known:
        folder = known["file"].removesuffix(f"{page}{context.get('page_source_suffix', '')}")
        context["doc_path"] = folder.rstrip("/")
    else:
        context["page_source_suffix"] = ""


def _launch_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Colab and Binder, which open the published notebook: it installs the package by itself."""
    name = _on_github(app.config.html_theme_options["repository_url"])
    if not (name and page.startswith("notebooks/")):
        return
    file = page.removeprefix("notebooks/") + ".ipynb"
    buttons = [
        {
            "type": "link",
            "text": title,
            "tooltip": f"Open on {title}",
            "icon": f"_static/images/logo_{icon}",
            "url": url.format(name=name, branch=NOTEBOOKS, file=file),
        }
        for title, icon, url in (("Colab", "colab.png", _COLAB), ("Binder", "binder.svg", _BINDER))
    ]
    context["header_buttons"].append(
        {
            "type": "group",
            "tooltip": "Run this chapter elsewhere",
            "icon": "fas fa-rocket",
            "buttons": buttons,
            "label": "launch-buttons",
        }
    )


# ---- docstrings --------------------------------------------------------------------------------------


def _docstring(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    chapters = {Path(page).name[:2]: page for page in app.env.found_docs if page.startswith("notebooks/")}
    paths = {entry.name: entry.path for entry in entries()}
    lines[:] = in_rst(lines, chapters, paths) + field_lines(item)


def _signature(
    app: Sphinx, what: str, name: str, item: Any, options: Any, signature: str, returned: str
) -> tuple[str, None] | None:
    """The fields of a pydantic model and their defaults, without the types that check them."""
    if what == "class" and hasattr(item, "model_fields"):
        fields = item.model_fields.items()
        given = [name if field.is_required() else f"{name}={field.get_default()!r}" for name, field in fields]
        return f"(*, {', '.join(given)})", None
    return None


# ---- what is done when the pages are there -----------------------------------------------------------


def _finish(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        _write_downloads(app)
        trim_mathjax(Path(app.outdir, "_static", "mathjax"))
    if error is None and app.builder.name == "singlehtml":  # for paper, on which nothing can be unfolded
        page = Path(app.outdir, f"{app.config.root_doc}.html")
        page.write_text(
            page.read_text(encoding="utf-8").replace("<details", "<details open"), encoding="utf-8"
        )


def _write_downloads(app: Sphinx) -> None:
    """Replaces the notebooks behind the download button."""
    options = app.config.html_theme_options
    for page in app.env.found_docs:
        source = Path(app.env.doc2path(page))
        if source.suffix == ".ipynb":
            link = partial(_as_markdown, app.env, app.config.html_baseurl, page)
            branch = options.get("repository_branch") or "main"
            chapter = standalone(read_notebook(source), link, options["repository_url"], branch)
            write_notebook(Path(app.outdir, "_sources", f"{page}.ipynb"), chapter)


def _as_markdown(env: BuildEnvironment, site: str, page: str, role: str, content: str) -> str:
    """A role of Sphinx as plain Markdown: a link if the site has an address or a notebook is meant."""
    given = re.fullmatch(r"(.*?)\s*<(.*)>", content)
    text, target = given.groups() if given else ("", content)
    std = env.get_domain("std")

    def linked(text: str, docname: str, anchor: str = "") -> str:
        if docname == page or not docname:
            return text
        if site:
            return f"[{text}]({site.rstrip('/')}/{docname}.html{'#' if anchor else ''}{anchor})"
        return f"[{text}]({Path(docname).name}.ipynb)" if docname.startswith("notebooks/") else text

    if role == "doc":
        docname = os.path.normpath(os.path.join(os.path.dirname(page), target)).lstrip("/")
        title = env.titles[docname].astext() if docname in env.titles else target
        return linked(text or title, docname)
    if role == "ref":
        docname, anchor, title = std.labels.get(target) or (*std.anonlabels.get(target, ("", "")), target)
        return linked(text or title, docname, anchor)
    if role == "numref":
        docname, anchor = std.anonlabels.get(target, ("", ""))
        number = env.toc_fignumbers.get(docname, {}).get("figure", {}).get(anchor, ())
        return linked((text or "Figure %s").replace("%s", ".".join(map(str, number))), docname, anchor)
    if role == "term":
        found = [
            std.objects[key] for name in (target, target.lower()) if (key := ("term", name)) in std.objects
        ]
        return linked(text or target, *found[0]) if found else text or target
    if role.startswith("cite"):
        cited = [linked(*_cited(env, key.strip())) for key in target.split(",")]
        return "; ".join(cited) if role == "cite:t" else f"({'; '.join(cited)})"
    if role.startswith("py:"):
        entry = env.get_domain("py").objects.get(target)
        return linked(f"`{text or target}`", *((entry.docname, entry.node_id) if entry else ("",)))
    return text or content


def _cited(env: BuildEnvironment, key: str) -> tuple[str, str, str]:
    """Authors and year of a work, and where its entry of the bibliography stands."""
    for citation in env.get_domain("cite").citations:
        if citation.key == key:
            names = [" ".join(person.last_names) for person in citation.entry.persons["author"]]
            short = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
            year = citation.entry.fields.get("year", "")
            return f"{short}, {year}", citation.bibliography_key.docname, citation.citation_id
    return key, "", ""


# ---- MathJax ------------------------------------------------------------------------------------------

# Of its 24 MB what our pages may load: fonts, packages of macros, and what reads formulas aloud in English.
_MATHJAX = (
    "tex-chtml.js",
    "output/chtml/fonts/**/*.*",
    "input/tex/extensions/*.js",
    "a11y/*.js",
    "sre/mathmaps/base.*",
    "sre/mathmaps/en.*",
)


def trim_mathjax(folder: Path) -> None:
    """Removes from a copy of MathJax what pages with formulas in TeX and English words do not load."""
    kept = {file for pattern in _MATHJAX for file in folder.glob(pattern)}
    for file in folder.rglob("*"):
        if file.is_file() and file not in kept:
            file.unlink()
