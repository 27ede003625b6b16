"""From texts to the tensors that a model and its patterns read."""
