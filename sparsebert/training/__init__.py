"""One run: its training, its record, its saved model."""
