"""Drops in a sequence of vectors: before or after a module."""
