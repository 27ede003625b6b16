"""`sparsebert ...`: the command line.

Modules are imported by the command that needs them, so that help comes at once.
"""

from sparsebert.cli import advising, benchmarks, book, elsewhere, lists, selftesting, training
from sparsebert.cli.group import main
