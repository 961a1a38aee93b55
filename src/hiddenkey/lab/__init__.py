"""Experiments behind the command line: tasks, metrics, training runs and their records.

Needs the extra ``lab`` (transformers, PEFT, scikit-learn). Importing this package is cheap; its
modules import the heavy libraries when a run needs them.
"""
