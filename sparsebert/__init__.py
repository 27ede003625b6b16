"""Which attention connections does an encoder need? Patterns, plans, fine-tuning, and the chapters."""

__version__ = "0.1.0"
