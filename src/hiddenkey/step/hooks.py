"""The hooks around a model's training passes, and what survives from one pass to the next."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hiddenkey import anatomy
from hiddenkey.anatomy import Part
from hiddenkey.anatomy.adapters import Adapters
from hiddenkey.errors import AttachError, ConsistencyError
from hiddenkey.framework.compensation import SMOOTHING
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.consistency import Consistency
from hiddenkey.measure import LossMeter, ShareCounter
from hiddenkey.step import caches
from hiddenkey.step.added_loss import AddedLoss, LanguageModelLoss
from hiddenkey.step.consistency import TwoPassLoss
from hiddenkey.step.guards import (
    FirstPass,
    TrainedLoss,
    is_backward,
    refuse_moved,
    refuse_unpreserved_rng,
)
from hiddenkey.step.identity import INDEX
from hiddenkey.step.own_loss import OwnLoss
from hiddenkey.step.parallel import OwnRandomNumbers, refuse_replica
from hiddenkey.step.places import SitePlan
from hiddenkey.step.rates import Rates
from hiddenkey.step.shared_layers import SharedLayers
from hiddenkey.step.smoothing import SmoothingLoss
from hiddenkey.step.statistics import RunningStatistics
from hiddenkey.step.temporal import TemporalLoss
from hiddenkey.step.training_pass import TrainingPass
from hiddenkey.step.visibility import VisibleTokens, models_inside


class StepHooks:
    """The hooks around a model's training passes.

    The attributes are all that survives between passes. What belongs to one pass is in
    :class:`~hiddenkey.step.training_pass.TrainingPass`, or is cleared by ``AddedLoss.end``: hooks
    of the added loss and of the shared layers keep what they see of a pass in these objects.

    Args:
        transformer: the model.
        entry: the module whose call is one training pass.
        adapters: of the model.
        layers: the model's layers.
        plan: where the configuration acts.
        config: the configuration.
        rates: the rates in force.
        random_numbers: this process's own.
        meter: takes the parts of each pass's loss.

    Attributes:
        entry: the module whose call is one training pass.
        parameters: names of its parameters.
        rates: the rates in force.
        random_numbers: this process's own.
        meter: the parts of the loss, of the last pass and in the mean.
        visible: the tokens that are no padding; a backward pass may ask for them again.
        statistics: running ones, which the trained pass moves alone; ``None`` without any.
        own: the task loss that the script computes of the next pass, if it does.
        consistency: the loss that is added to the task's, which counts the passes; ``None`` before
            :meth:`install`, or without one.
        shared: the layers that both passes share, and whether they may.
        first_pass: what the first pass is watched for; ``None`` when it is over.
        before_pass: called with the arguments, by name, before each training pass.
        trained: whether the last consistency loss was trained on; ``None`` where none is watched.
        current: the call at work, ``None`` between calls.
        is_paused: whether training passes run without noise and added loss, as if not attached.
    """

    def __init__(
        self,
        transformer: nn.Module,
        entry: nn.Module,
        adapters: Adapters,
        layers: Sequence[Part],
        plan: SitePlan,
        config: DropoutConfig,
        rates: Rates,
        random_numbers: OwnRandomNumbers,
        meter: LossMeter,
    ) -> None:
        self.entry = entry
        self.parameters = parameter_names(entry) or parameter_names(transformer)
        self.rates, self.random_numbers, self.meter = rates, random_numbers, meter
        task = anatomy.task_of(transformer)
        self.visible = VisibleTokens(
            reads_labels=anatomy.is_encoder_decoder(transformer)
            and task == "ForConditionalGeneration"
        )
        self.statistics = RunningStatistics.of(entry)
        self.own: OwnLoss | None = None
        self.consistency: AddedLoss | None = None
        self.shared: SharedLayers | None = None
        self.before_pass: list[Callable[[Mapping[str, Any]], None]] = []
        self.first_pass: FirstPass | None = None
        self.trained: TrainedLoss | None = None
        self.current: TrainingPass | None = None
        self.is_paused = self._is_removed = False
        self._transformer, self._layers = transformer, list(layers)
        self._adapters = adapters
        self._plan, self._config = plan, config
        self._sites = [place.site for place in plan.places]
        self._handles: list[RemovableHandle] = []
        self._is_called = False

    def install(self, counters: Mapping[str, ShareCounter], lm_loss: LanguageModelLoss) -> None:
        """Put the hooks on.

        Args:
            counters: of the sites, by :attr:`Site.key`.
            lm_loss: see :func:`hiddenkey.attach`.
        """
        self.first_pass = FirstPass(self._plan.places, self._layers, counters)
        if self._config.consistency is not None:
            self.consistency = self._added_loss(self._config.consistency, lm_loss)
            self.shared = self._find_shared()
        self._handles += [
            self.entry.register_forward_pre_hook(self._enter, with_kwargs=True),
            # first of all: FSDP2 finds its way back through the outputs that its own hook is shown
            self.entry.register_forward_hook(self._leave, prepend=True),
            self.entry.register_forward_hook(self._tidy, always_call=True),
        ]
        for module, decoder in models_inside(self._transformer, self.entry, self._layers).items():
            see = functools.partial(self._see, decoder, parameter_names(module))
            self._handles.append(module.register_forward_pre_hook(see, with_kwargs=True))
        for part in self._layers:
            hook = part.module.register_forward_hook(self._prepare_recomputing)
            self._handles.append(hook)

    def remove(self) -> None:
        """Take the hooks off."""
        self._is_removed = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.first_pass is not None:
            self.first_pass.remove()
        self.leave()
        if self.consistency is not None:
            self.consistency.remove()
            self.consistency = None
        self.shared = None
        self.before_pass.clear()  # what it calls leads back here, and would keep the model

    def _added_loss(self, settings: Consistency, lm_loss: LanguageModelLoss) -> AddedLoss:
        if settings.kind == SMOOTHING:
            return SmoothingLoss(settings, self._transformer, lm_loss, self.entry)
        if settings.target == "history":
            return TemporalLoss(
                settings, self._transformer, lm_loss, self.entry, adapters=self._adapters
            )
        last = self._layers[-1].module
        return TwoPassLoss(settings, self._transformer, last, lm_loss, self.entry)

    def _find_shared(self) -> SharedLayers | None:
        """Return the layers in which both passes are equal, if there are any."""
        if not isinstance(self.consistency, TwoPassLoss):
            return None
        if self._config.keep_model_dropout or any(s.position == "input" for s in self._sites):
            return None
        if self.entry is not self._transformer:  # it may run the layers more than once
            return None
        first = min((s.layer for s in self._sites if s.layer is not None), default=0)
        if first == 0:
            return None
        return SharedLayers(self._transformer, self._layers[:first], self._layers[first:])

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.leave()  # what an interrupted pass left: KeyboardInterrupt runs no hooks
        self._is_called = True
        index = kwargs.get(INDEX)
        changed = None
        if index is not None:
            kwargs = {name: value for name, value in kwargs.items() if name != INDEX}
            changed = args, kwargs
        if module.training and not self.is_paused:
            self._begin(module, args, kwargs, index)
        else:
            self._silence()
        return changed

    def _silence(self) -> None:
        """Draw nothing in a model that does not train, though parts of it may be set to.

        PEFT leaves the layers that it adds in training mode, whatever the model's own is.
        """
        if any(place.part.module.training for place in self._plan.places):
            self.rates.act(dict.fromkeys(self.rates.current, 0.0))

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], index: Any
    ) -> None:
        refuse_replica(module)
        refuse_unpreserved_rng(self._transformer, self._layers)
        refuse_moved(self._transformer, self._plan.places)
        arguments = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        for call in self.before_pass:
            call(arguments)
        self.current = TrainingPass(self, arguments, self.own, index)
        if torch.compiler.is_compiling():
            self.current.begin()
            return
        try:
            self.current.begin()
        except BaseException:  # Ctrl-C in the second forward pass runs no hooks
            self.leave()
            raise

    def _see(
        self,
        decoder: bool,
        names: Sequence[str],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if module.training:
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            self.visible.see_inside(decoder, arguments)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        current, self.current, self._is_called = self.current, None, False
        self.random_numbers.end()
        if self.shared is not None and self.shared.release():
            caches.remove_from(output)  # the layers that ran before are not in it
        if current is None or not torch.is_grad_enabled():
            return
        refuse_moved(self._transformer, self._plan.places)  # BigBird changes itself in a pass
        self._end_first_pass()
        current.finish(output)

    def _end_first_pass(self) -> None:
        if self.first_pass is None or torch.compiler.is_compiling():
            return
        rates = self.rates.current
        if all(rates[site.key] for site in self._sites if site.rate):
            self.first_pass.finish(rates)  # in a warm-up the first pass draws nothing
            self.first_pass = None

    def _tidy(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave nothing armed after a pass that failed."""
        self.leave()

    def leave(self) -> None:
        """Leave nothing of a pass on the model, however it ended. Does nothing twice."""
        self.current, self._is_called = None, False
        self.random_numbers.end()
        self.rates.act(self.rates.current)
        if self.shared is not None:
            self.shared.release()
        if self.consistency is not None:
            self.consistency.end()

    def _prepare_recomputing(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let activation checkpointing run a layer again with the padding and rates of its pass.

        Gradient reaches a layer's output before the layer runs again. Any layer may: torch's
        checkpoint wrappers leave no trace in it, which compiled code needs for not doing this.
        """
        states = output[0] if isinstance(output, tuple) else output
        marked = getattr(layer, "gradient_checkpointing", False)
        if not isinstance(states, Tensor) or not states.requires_grad:
            return
        compiling = torch.compiler.is_compiling()
        if compiling and not marked:
            return
        if self.current is not None and not compiling and layer is self._layers[-1].module:
            self.current.states = states
        visible, rates = self.visible.stored(), self.rates.acting

        def restore(gradient: Tensor) -> None:
            if self._is_removed and marked and layer.training:
                raise AttachError(
                    "the method was detached between a forward and its backward pass, in which"
                    " activation checkpointing runs the layers again, without its masks; call"
                    " backward before detach, inside of the with block"
                )
            self.visible.restore(visible)
            self.rates.act(rates)

        states.register_hook(restore)  # type: ignore[no-untyped-call]

    def counts(self) -> bool:
        """Whether a draw counts: not where a backward pass runs a layer again, nor in a self-test.

        Raises:
            AttachError: if a training pass goes around the call whose hooks know its padding.
            ConsistencyError: if that call adds the consistency loss.
        """
        if is_backward():
            return False
        if self.shared is not None and self.shared.is_compared:
            return False  # a resumed run looks once more
        if self.consistency is not None and self.current is None and torch.is_grad_enabled():
            raise ConsistencyError(
                "a consistency loss is configured, but this training pass goes around the model's"
                " own call, where the loss is added; call the model that was attached, or set"
                " consistency=None; attach after get_peft_model"
            )
        if not self._is_called and torch.is_grad_enabled():
            raise AttachError(
                f"this training pass goes around the call of {type(self.entry).__name__}, where"
                " padding, the masks of each process and the losses are known; call the model"
                " itself, not its forward or its layers, and attach to the model that is trained,"
                " after get_peft_model (TRL's DistillationTrainer calls an adapted model's body)"
            )
        return True


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of ``forward``, without ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(module.forward).parameters.values()
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(given.name for given in parameters if given.kind not in collecting)
