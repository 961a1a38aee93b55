"""Structured dropout for fine-tuning transformers, after arXiv 2403.00812.

Three lines put it into a training script::

    import hiddenkey
    attachment = hiddenkey.attach(model, "hiddenkey")
    print(attachment)

Public names are loaded when they are first used, so that the command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiddenkey.attachment.attachment import Attachment, attach
    from hiddenkey.attachment.step_cost import StepCost
    from hiddenkey.errors import AttachError, ConfigError, ConsistencyError, VersionWarning
    from hiddenkey.framework.catalogue import Method, method, methods
    from hiddenkey.framework.config import Drop, DropoutConfig
    from hiddenkey.framework.consistency import Consistency
    from hiddenkey.framework.inference import Inference, fit_temperature
    from hiddenkey.framework.schedule import RateSchedule
    from hiddenkey.framework.site import Site
    from hiddenkey.step.averaging import WeightAverage
    from hiddenkey.step.scaling import scale_update

__version__ = "0.2.0"

__all__ = [
    "AttachError",
    "Attachment",
    "ConfigError",
    "Consistency",
    "ConsistencyError",
    "Drop",
    "DropoutConfig",
    "Inference",
    "Method",
    "RateSchedule",
    "Site",
    "StepCost",
    "VersionWarning",
    "WeightAverage",
    "attach",
    "fit_temperature",
    "method",
    "methods",
    "scale_update",
]

_MODULES = {
    "attachment.attachment": ("Attachment", "attach"),
    "attachment.step_cost": ("StepCost",),
    "framework.catalogue": ("Method", "method", "methods"),
    "framework.config": ("Drop", "DropoutConfig"),
    "framework.consistency": ("Consistency",),
    "errors": ("AttachError", "ConfigError", "ConsistencyError", "VersionWarning"),
    "framework.inference": ("Inference", "fit_temperature"),
    "framework.site": ("Site",),
    "framework.schedule": ("RateSchedule",),
    "step.averaging": ("WeightAverage",),
    "step.scaling": ("scale_update",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hiddenkey' has no attribute {name!r}")
    value = getattr(import_module(f"hiddenkey.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
