"""Drops in a sequence of vectors: before, after or inside of a module."""
