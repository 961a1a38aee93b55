"""Tries every adapter of the installed PEFT on tiny models, and writes down what holds."""
