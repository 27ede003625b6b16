"""The chapters: notebooks that are checked, run through papermill, tidied and rendered as a book.

`notebooks` finds, reads and writes them, `parameters` says what they take, `running` executes one, `tidying`
makes it fit to be read, `book` renders them all. Nothing else in the package knows papermill.
"""

from sparsebert.chapters.book import build_book
from sparsebert.chapters.notebooks import find_notebook
from sparsebert.chapters.parameters import PROFILES, Parameter, parameters_of, parse_parameters
from sparsebert.chapters.running import run_notebook
from sparsebert.errors import ChapterError
