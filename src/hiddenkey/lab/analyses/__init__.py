"""Analyses beside the comparison: each is pure functions, a figure and a page of its own."""
