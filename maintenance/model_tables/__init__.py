"""Examines a method on every model type of transformers and every adapter of PEFT, in a table."""
