"""Where the notebooks are, and how they are read and written."""

from __future__ import annotations

from pathlib import Path

import nbformat

from sparsebert import paths
from sparsebert.errors import InputError, first_line, shown, unknown_name
from sparsebert.reading import path_of, read_text


def find_notebook(name: str | Path, root: str | Path | None = None) -> Path:
    """The notebook of this name: `03_which_connections`, `which_connections`, `03`, or the path of a file.

    A lab is found in the same way, as `lab_pairs`, `pairs` or `lab`. Raises `InputError` with the nearest
    name if there is none.
    """
    path = path_of(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    folder = find_root(root) / "notebooks"
    known = [path for names in ("[0-9][0-9]_*.ipynb", "[a-z]*.ipynb") for path in sorted(folder.glob(names))]
    wanted = path.name.removesuffix(".ipynb")
    for notebook in known:
        number, _, title = notebook.stem.partition("_")
        if wanted in (notebook.stem, title, number, number.lstrip("0")):
            return notebook
    raise unknown_name("notebook", str(name), [notebook.stem for notebook in known])


def find_root(root: str | Path | None) -> Path:
    """The project's folder: the one given, or the one that `sparsebert.paths` finds; else `InputError`."""
    found = Path(root) if root else paths.project_root()
    if found is None:
        raise InputError("the notebooks are not here; call this from a clone of the project")
    return found.resolve()


def read_notebook(notebook: Path) -> nbformat.NotebookNode:
    """A notebook as nbformat 4; `InputError` if the file can't be read or isn't one."""
    text = read_text(notebook, "the notebook")
    try:
        book = nbformat.reads(text, as_version=4)
        nbformat.validate(book)
    except Exception as error:  # whatever nbformat comes to when it reads something else
        reason = shown(first_line(error))
        raise InputError(f"'{shown(notebook)}' is no notebook that Jupyter could open: {reason}") from None
    return book


def write_notebook(path: Path, book: nbformat.NotebookNode) -> None:
    """Writes a notebook whole: the name appears when the file is complete."""
    nbformat.validate(book)
    paths.write_whole(path, nbformat.writes(book) + "\n")
