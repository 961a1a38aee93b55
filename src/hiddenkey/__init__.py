"""Structured dropout for fine-tuning transformers, after arXiv 2403.00812.

Three lines put it into a training script::

    import hiddenkey
    attachment = hiddenkey.attach(model, "hiddenkey")
    print(attachment)
"""

from hiddenkey.attach import Attachment, attach
from hiddenkey.config import Consistency, Drop, DropoutConfig
from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.methods import Method, method, methods
from hiddenkey.plan import Site

__version__ = "0.1.0"

__all__ = [
    "AttachError",
    "Attachment",
    "ConfigError",
    "Consistency",
    "ConsistencyError",
    "Drop",
    "DropoutConfig",
    "Method",
    "Site",
    "attach",
    "method",
    "methods",
]
