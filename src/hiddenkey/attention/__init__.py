"""The attention function: its specification, its fused paths, and their way into a model."""
