"""A chapter's notebook for readers: it works outside the project, in any program that opens notebooks."""

from __future__ import annotations

import re
from collections.abc import Callable

import nbformat
from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin

Link = Callable[[str, str], str]  # a role's name and content as plain Markdown

_MYST = MarkdownIt("commonmark").use(colon_fence_plugin).use(myst_block_plugin)
_ROLE = re.compile(r"(?<!`)\{([a-z:]+)\}`([^`\n]+(?:\n[^`\n]+)?)`")


def standalone(
    book: nbformat.NotebookNode, link: Link, repository: str, branch: str
) -> nbformat.NotebookNode:
    """The notebook with a first cell that installs the package, and plain Markdown instead of MyST, in place.

    `link` gives the Markdown of a role of Sphinx. Without an address of the `repository` the first cell says
    how to install by hand.
    """
    glued = _glued(book)

    def role(name: str, content: str) -> str:
        if name.startswith("glue"):
            return glued.get(content.partition(":")[0], content)
        return link(name, content)

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = plain_markdown(cell.source, role)
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                output["data"]["text/markdown"] = plain_markdown(text, role)
    cell = nbformat.v4.new_code_cell(_install(repository, branch), id="install-sparsebert")
    book.cells.insert(0, cell)
    return book


def _install(repository: str, branch: str) -> str:
    if repository:
        otherwise = f"""\
    source, branch = "{repository}", "{branch}"
    folder = "sparsebert-book"  # a clone, since the recorded runs lie beside the package
    if not os.path.isdir(folder):
        git = ["git", "clone", "--quiet", "--depth=1", f"--branch={{branch}}"]
        subprocess.run([*git, source, folder], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--editable", f"{{folder}}[book]"], check=True)
    sys.path.insert(0, os.path.abspath(folder))"""
    else:
        otherwise = """\
    raise ModuleNotFoundError(
        "This notebook needs the package sparsebert. In a clone of its project, write "
        "pip install --editable '.[book]', and take that Python as the notebook's kernel."
    )"""
    imports = "import importlib.util" + ("\nimport os\nimport subprocess\nimport sys" if repository else "")
    return f"""\
# Makes this notebook work where the package sparsebert is not installed yet, such as on Colab.
{imports}

if importlib.util.find_spec("sparsebert") is None:
{otherwise}"""


def _glued(book: nbformat.NotebookNode) -> dict[str, str]:
    """What the notebook gave to `glue`, as text."""
    found = {}
    for cell in book.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            texts = {mime.rpartition("/")[2]: text for mime, text in output.get("data", {}).items()}
            if name and "plain" in texts:
                found[name] = texts["plain"].strip("'\"")
    return found


def plain_markdown(text: str, link: Link) -> str:
    """MyST Markdown as what every program shows: no roles, directives or labels.

    Exercises, solutions, folds and boxes become headed or folded text, other directives their content.
    """
    lines, out, place = text.split("\n"), [], 0
    for block in _MYST.parse(text):
        if block.map and block.level == 0 and block.type in ("fence", "colon_fence", "myst_target"):
            start, end = block.map
            out += lines[place:start]
            if block.type != "myst_target":
                out += _directive(block.info.strip(), block.content, lines[start:end], link)
            place = end
    return _with_roles([*out, *lines[place:]], link).strip()


def _directive(head: str, text: str, whole: list[str], link: Link) -> list[str]:
    named = re.match(r"\{([\w:-]+)\}\s*(.*)", head)
    if not named:
        return whole  # code, or a fence that is none of Sphinx's
    name, title = named.groups()
    content = plain_markdown(re.sub(r"\A(:[\w-]+:.*\n)*", "", text), link)  # without its options
    title = _with_roles([title], link)
    if name == "exercise":
        return [f"**Exercise{': ' + title if title else ''}**", "", content]
    if name == "solution-start":
        return ["**Solution**"]
    if name == "dropdown":
        return ["<details>", f"<summary>{title}</summary>", "", content, "", "</details>"]
    if name == "admonition":
        return [f"> **{title}**", ">", *(f"> {line}".rstrip() for line in content.split("\n"))]
    return content.split("\n") if content else []


def _with_roles(lines: list[str], link: Link) -> str:
    """Roles become what `link` says, but not inside fenced code."""
    parts = re.split(r"(^```.*?^```|^~~~.*?^~~~)", "\n".join(lines), flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if number % 2 else _ROLE.sub(lambda role: link(role[1], " ".join(role[2].split())), part)
        for number, part in enumerate(parts)
    )
