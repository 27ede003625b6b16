"""Benchmarks: costs side by side within one run, of one layer, of a whole encoder, of a fine-tuning."""
