"""Benchmarks: costs side by side within one run, of one layer, of a whole encoder."""

PLAN = "neighbour(64) | global(cls)"  # what is measured beside dense attention if nothing else is asked for
