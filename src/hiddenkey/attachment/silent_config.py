"""Lets a module read dropout rates of zero from its config, which itself stays as it is.

Some modules take rates from their config in each pass. A zero written into it would be saved with
the model, and would reach every other module that has the same config. So a module that reads is
given a :class:`SilentConfig` instead.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hiddenkey.attention.dispatch import RoutedConfig


class SilentConfig:
    """A config as one module sees it: one of its rates is zero.

    All else is read from the config and written to it, whatever becomes of it meanwhile.

    Args:
        config: the module's own config.
        silent: the name of the rate.
    """

    def __init__(self, config: Any, silent: str) -> None:
        # "routed" as in RoutedConfig, so that both can be followed to the config itself
        self.__dict__.update(routed=config, silent=silent)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # how a config is copied is no matter of a view's
            raise AttributeError(name)
        if name == self.__dict__["silent"]:
            return 0.0
        return getattr(self.__dict__["routed"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["routed"], name, value)


def own_config(module: nn.Module) -> Any:
    """Return a module's config itself, or ``None``: what all views of it look at."""
    config = getattr(module, "config", None)
    while isinstance(config, RoutedConfig | SilentConfig):
        config = config.__dict__["routed"]
    return config


class SilentRate:
    """A rate of its config that a module reads as zero, until :meth:`remove`.

    Args:
        module: reads the rate in its forward method.
        name: of the rate.
        only_in_calls: whether others read the module's config too, as they do of a model: outside
            of its calls it then is the config itself, of its own type and with all its rates.
    """

    def __init__(self, module: nn.Module, name: str, *, only_in_calls: bool) -> None:
        self._module, self._name = module, name
        self._depth = 0
        self._is_hidden = False
        self._written: float | None = None
        self._handles: list[Any] = []
        if only_in_calls or not self._has_own_config:
            # first of all: a second forward pass runs inside of a hook, and past all hooks
            self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        else:
            self._hide()

    def remove(self) -> None:
        """Let the module read the rate again. Does nothing twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._show()

    @property
    def _has_own_config(self) -> bool:
        return "config" in self._module.__dict__

    def _enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._hide()
        self._depth += 1

    def _leave(self, *_: Any) -> None:
        # counted, as a model may call itself
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            self._show()

    def _hide(self) -> None:
        self._is_hidden = True
        config: Any = self._module.config
        if not self._has_own_config:  # a property, in whose place nothing can be put
            self._written = getattr(config, self._name)
            setattr(config, self._name, 0.0)
            return
        above = None
        while isinstance(config, RoutedConfig):  # which attention expects on top
            above, config = config, config.__dict__["routed"]
        _put(self._module, above, SilentConfig(config, self._name))

    def _show(self) -> None:
        if not self._is_hidden:  # a view of this rate would be another attachment's
            return
        self._is_hidden = False
        if self._written is not None:
            setattr(self._module.config, self._name, self._written)
            self._written = None
            return
        above, config = None, self._module.__dict__.get("config")
        while isinstance(config, RoutedConfig | SilentConfig):
            below = config.__dict__["routed"]
            if isinstance(config, SilentConfig) and config.__dict__["silent"] == self._name:
                _put(self._module, above, below)
                return
            above, config = config, below


def _put(module: nn.Module, above: Any, config: Any) -> None:
    """Set what a module sees as its config, or what a view of it looks at."""
    if above is None:
        module.config = config
    else:
        above.__dict__["routed"] = config
