"""Python imports this when it starts under ``hiddenkey run``; it waits for a Trainer.

It runs in every Python that the command starts, so it imports nothing that is not loaded already,
nothing of this package included, and changes nothing but the class Trainer. Another
``sitecustomize``, further along the path, is run as if this one was not there.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import os
import sys

_TRAINERS = {
    "transformers.trainer": "trainer_was_built",
    "lightning.pytorch.trainer.trainer": "lightning_was_built",
    "pytorch_lightning.trainer.trainer": "lightning_was_built",
}
_VARIABLE = "HIDDENKEY_LAUNCH"


class _Finder:
    """Finds the modules of Trainers as all finders do, and acts when they have been imported."""

    def find_spec(self, name, path=None, target=None):
        """Answer for those modules alone."""
        if name not in _TRAINERS:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find and find(name, path, target)
            if spec and spec.loader:
                _act_after(spec.loader, _TRAINERS[name])
                return spec
        return None


def _act_after(loader, action):
    execute = loader.exec_module

    def exec_module(module):
        execute(module)
        _watch(module.Trainer, action)

    loader.exec_module = exec_module


def _watch(trainer, action):
    """Let a method of :mod:`hiddenkey.launch.process` have each trainer that is built."""
    import functools
    import json

    folder = json.loads(os.environ[_VARIABLE])["record"]
    try:
        with open(os.path.join(folder, ".imported"), "a"):  # stages.IMPORTED
            pass
    except OSError:  # the command has ended, which left this process behind it
        pass
    plain = trainer.__init__

    @functools.wraps(plain)
    def __init__(self, *args, **kwargs):  # noqa: N807
        plain(self, *args, **kwargs)
        try:
            from hiddenkey.launch import process
        except ModuleNotFoundError as error:
            raise RuntimeError(
                f"hiddenkey run: {sys.executable} trains, and has no package {error.name!r};"
                " install hiddenkey there, or start a Python that has it"
            ) from None
        getattr(process, action)(self)

    trainer.__init__ = __init__


def _run_shadowed():
    here = os.path.dirname(os.path.abspath(__file__))
    path = [folder for folder in sys.path if os.path.abspath(folder) != here]
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") != "PathFinder":
            continue
        spec = finder.find_spec("sitecustomize", path)
        if spec is None or spec.loader is None:
            return
        module = type(sys)("sitecustomize")
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if _VARIABLE in os.environ:
    sys.meta_path.insert(0, _Finder())
_run_shadowed()
