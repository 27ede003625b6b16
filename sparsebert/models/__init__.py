"""The plug into transformers: encoders, and a model whose attention follows a plan."""
