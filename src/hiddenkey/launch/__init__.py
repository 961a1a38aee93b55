"""Attaches a method inside of a command that knows nothing of it.

A command is started with two environment variables, which its child processes inherit.
``PYTHONPATH`` begins with a folder that holds a ``sitecustomize.py``; Python imports it when it
starts. That file waits until transformers' or Lightning's Trainer has been imported, and lets each
Trainer that is built have a callback. The other variable holds the settings. Nothing else on the
machine changes.

Importing this package does not import torch.
"""

from hiddenkey.launch.settings import LaunchSettings, launch_environment
from hiddenkey.launch.stages import why_unattached

__all__ = ["LaunchSettings", "launch_environment", "why_unattached"]
