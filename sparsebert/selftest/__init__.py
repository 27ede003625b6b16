"""Checks that the package computes what it should, for a machine that nobody has tried yet."""
