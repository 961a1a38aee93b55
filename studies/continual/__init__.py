"""Tasks in sequence with one adapter: what is forgotten, and what is left at the end.

``python studies/continual --help`` shows its settings.
"""
