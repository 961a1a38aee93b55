"""Bridges to trainers, each imported on demand."""
