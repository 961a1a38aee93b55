"""One run: options, data, training, result."""
