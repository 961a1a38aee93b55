"""What happens around a training pass: the other pass before it, the loss after it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy import Part
from hiddenkey.chunked_loss.passes import OtherStates
from hiddenkey.errors import AttachError, ConsistencyError
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.measure import LossMeter, ShareCounter
from hiddenkey.step import caches
from hiddenkey.step.checkpointing import refuse_unpreserved_rng
from hiddenkey.step.consistency import ConsistencyPass, LanguageModelLoss, OtherPass, select
from hiddenkey.step.guards import FirstPass, refuse_moved
from hiddenkey.step.own_loss import OwnLoss
from hiddenkey.step.parallel import OwnDraws, refuse_replica
from hiddenkey.step.places import Plan
from hiddenkey.step.rates import Rates
from hiddenkey.step.shared_layers import SharedPrefix
from hiddenkey.step.visibility import VisibleTokens


class TrainingPass:
    """The hooks around a model's training passes.

    Args:
        transformer: the model.
        entry: the module whose call is one training pass.
        layers: the model's layers.
        plan: where the configuration acts.
        config: the configuration.
        rates: the rates in force.
        draws: this process's own random numbers.
        meter: takes the parts of each pass's loss.

    Attributes:
        visible: the tokens of the pass at work that are no padding.
        own: the task loss that the script computes of the pass at work, if it does.
        consistency: the loss between two passes; ``None`` before :meth:`install`, or without one.
        prefix: the layers that both passes share.
    """

    def __init__(
        self,
        transformer: nn.Module,
        entry: nn.Module,
        layers: Sequence[Part],
        plan: Plan,
        config: DropoutConfig,
        rates: Rates,
        draws: OwnDraws,
        meter: LossMeter,
    ) -> None:
        self.visible = VisibleTokens()
        self.own: OwnLoss | None = None
        self.consistency: ConsistencyPass | None = None
        self.prefix: SharedPrefix | None = None
        self._transformer, self._entry, self._layers = transformer, entry, list(layers)
        self._plan, self._config, self._rates = plan, config, rates
        self._sites = [place.site for place in plan.places]
        self._draws, self.meter = draws, meter
        self._parameters = parameter_names(entry) or parameter_names(transformer)
        self._first_pass: FirstPass | None = None
        self._handles: list[RemovableHandle] = []
        self._other: OtherPass | OtherStates | None = None
        self._inside_forward = False
        self._is_called = False

    def install(self, counters: Mapping[str, ShareCounter], lm_loss: LanguageModelLoss) -> None:
        """Put the hooks on.

        Args:
            counters: of the sites, by :attr:`Site.key`.
            lm_loss: see :func:`hiddenkey.attach`.
        """
        self._first_pass = FirstPass(self._plan.places, self._layers, counters)
        if self._config.consistency is not None:
            self.consistency = ConsistencyPass(
                self._config.consistency,
                self._transformer,
                self._layers[-1].module,
                lm_loss,
                self._entry,
            )
            self.prefix = self._find_prefix()
        self._handles += [
            self._entry.register_forward_pre_hook(self._enter, with_kwargs=True),
            # first of all: FSDP2 finds its way back through the outputs that its own hook is shown
            self._entry.register_forward_hook(self._leave, prepend=True, with_kwargs=True),
            self._entry.register_forward_hook(self._tidy, always_call=True),
        ]
        for part in self._layers:
            hook = part.module.register_forward_hook(self._prepare_recomputing)
            self._handles.append(hook)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._first_pass is not None:
            self._first_pass.remove()
        if self.consistency is not None:
            self.consistency.remove()
            self.consistency = None
        self.prefix = None

    def _find_prefix(self) -> SharedPrefix | None:
        """Return the layers in which both passes are equal, if there are any."""
        if self._config.keep_model_dropout or any(s.position == "input" for s in self._sites):
            return None
        if self._entry is not self._transformer:  # it may run the layers more than once
            return None
        first = min((s.layer for s in self._sites if s.layer is not None), default=0)
        if first == 0:
            return None
        return SharedPrefix(self._transformer, self._layers[:first], self._layers[first:])

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._is_called = True
        if not module.training:
            return
        refuse_replica(module)
        refuse_unpreserved_rng(self._transformer, self._layers)
        refuse_moved(self._transformer, self._plan.places)
        self._draws.begin()
        self._rates.act(self._rates.current)
        arguments = self._by_name(args, kwargs)
        if self.own is not None:
            arguments = self.own.complete(arguments)
        self._inside_forward = True
        self._other = None
        if self.consistency is not None and torch.is_grad_enabled():
            if arguments.get("fused_lm_head"):
                raise ConsistencyError(
                    "a consistency loss is configured, but TRL's trainers do not train on the"
                    " model's own loss, where it is added; instead of SFTTrainer use"
                    " hiddenkey.integrations.trl.ConsistencySFTTrainer; DPO, KTO, GRPO and RLOO"
                    " need deterministic log-probabilities: set consistency=None"
                )
            self.consistency.is_own_loss = self.own is not None
            if self.consistency.due():
                self._other = self._run_other(self.consistency, arguments)
            self.consistency.begin(arguments, self._other)
        self.visible.see(arguments)

    def _run_other(
        self, consistency: ConsistencyPass, arguments: Mapping[str, Any]
    ) -> OtherPass | OtherStates:
        chosen = consistency.choose(arguments)

        def other() -> OtherPass | OtherStates:
            self.visible.see(select(arguments, chosen))
            return consistency.before(self._run, arguments, chosen)

        prefix = self.prefix
        if prefix is None or not prefix.run(self._run, arguments):
            return other()

        def shared() -> OtherPass | OtherStates:
            prefix.give(chosen, once_more=True)
            return other()

        if prefix.is_trusted is None:
            with torch.no_grad():
                prefix.compare(lambda: shared().rows, lambda: other().rows)
            consistency.end()
        if not prefix.is_trusted:
            prefix.release()
            self.prefix = None
            return other()
        found = shared()
        prefix.give(None, once_more=False)
        return found

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self._inside_forward = self._is_called = False
        self._draws.end()
        shared = self.prefix is not None and self.prefix.release()
        if shared:
            caches.remove_from(output)  # the layers that ran before are not in it
        if not module.training or not torch.is_grad_enabled():
            return
        refuse_moved(self._transformer, self._plan.places)  # BigBird changes itself in a pass
        self._end_first_pass()
        if self.consistency is None:
            if self.own is not None:
                self.own.receive(None)
            else:
                self.meter.add(getattr(output, "loss", None), None)
            return
        other, self._other = self._other, None
        arguments = self._by_name(args, kwargs)
        if self.own is not None:
            arguments = self.own.complete(arguments)
        loss, extra = self.consistency.after(output, arguments, other)
        if self.own is not None:
            self.own.receive(extra)
            return
        if loss is not None and loss is not output.loss:
            output["loss"] = loss
        task = loss if loss is None or extra is None else loss.detach() - extra.detach()
        self.meter.add(task, extra)

    def _end_first_pass(self) -> None:
        if self._first_pass is None or torch.compiler.is_compiling():
            return
        rates = self._rates.current
        if all(rates[site.key] for site in self._sites if site.rate):
            self._first_pass.finish(rates)  # in a warm-up the first pass draws nothing
            self._first_pass = None

    def _tidy(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave nothing armed after a pass that failed."""
        self._is_called = False
        self._other = None
        self._draws.end()
        if self.prefix is not None:
            self.prefix.release()
        if self.consistency is not None:
            self.consistency.end()

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the model past its own hooks, where these are installed."""
        if self.own is not None:
            arguments = self.own.reduce(arguments)
        return self._entry.forward(**caches.renamed(arguments, self._parameters))

    def _prepare_recomputing(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let a layer that is recomputed in a backward pass see padding and rates of its own pass.

        Gradient reaches a layer's output before the layer is recomputed. Any layer may be: torch's
        checkpoint wrappers leave no trace in it, which compiled code needs for not doing this.
        """
        states = output[0] if isinstance(output, tuple) else output
        marked = getattr(layer, "gradient_checkpointing", False)
        if not isinstance(states, Tensor) or not states.requires_grad:
            return
        if torch.compiler.is_compiling() and not marked:
            return
        visible, rates = self.visible.stored(), self._rates.current

        def restore(gradient: Tensor) -> None:
            self.visible.restore(visible)
            self._rates.act(rates)

        states.register_hook(restore)  # type: ignore[no-untyped-call]

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs}

    def counts(self) -> bool:
        """Whether a draw counts: it does not while a backward pass recomputes a layer.

        Raises:
            AttachError: if a training pass goes around the call whose hooks know its padding.
            ConsistencyError: if that call adds the consistency loss.
        """
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return False
        if self.consistency is not None and not self._inside_forward and torch.is_grad_enabled():
            raise ConsistencyError(
                "a consistency loss is configured, but this training pass goes around the model's"
                " own call, where the loss is added; call the model that was attached, or set"
                " consistency=None"
            )
        if not self._is_called and torch.is_grad_enabled():
            raise AttachError(
                f"this training pass goes around the call of {type(self._entry).__name__}, where"
                " padding, the masks of each process and the losses are known; call the model"
                " itself, not its forward or its layers, and attach to the model that is trained"
            )
        return True


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of ``forward``, without ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(module.forward).parameters.values()
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(given.name for given in parameters if given.kind not in collecting)
