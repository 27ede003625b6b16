"""`python -m sparsebert ...`, as `accelerate launch -m sparsebert ...` starts it, too."""

from sparsebert.cli import main

main(prog_name="sparsebert")
