"""Puts a configuration on a model, and takes it off again."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey import anatomy, model_dropout
from hiddenkey.anatomy import Gap, Part
from hiddenkey.attention.installation import AttentionInstallation
from hiddenkey.catalogue import method
from hiddenkey.config import DropoutConfig
from hiddenkey.consistency import (
    ConsistencyPass,
    LanguageModelLoss,
    OtherPass,
    select,
    visible_tokens,
)
from hiddenkey.entry import adapter_faults, entry_of
from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.measure import LossMeter, ShareCounter
from hiddenkey.own_loss import OwnLoss
from hiddenkey.parallel import OwnDraws, refuse_replica
from hiddenkey.plan import Kernel, Plan, Site, make_plan
from hiddenkey.positions import POSITIONS
from hiddenkey.positions.site import SequenceSite
from hiddenkey.prefix import SharedPrefix
from hiddenkey.rates import Rates
from hiddenkey.reach import FirstPass, refuse_replaced
from hiddenkey.vocabulary.passes import OtherStates
from hiddenkey.vocabulary.sums import Sums

_ATTACHMENT = "_hiddenkey_attachment"


def attach(
    model: nn.Module,
    config: str | DropoutConfig,
    *,
    kernel: Kernel = "auto",
    lm_loss: LanguageModelLoss = "auto",
    data_parallel_rank: int | None = None,
) -> Attachment:
    """Put a method on a model.

    Noise acts in training mode only; in evaluation mode the model's outputs are bit-equal to those
    without it. Attach after ``get_peft_model``. A model that has a configuration loses it first.

    Args:
        model: ``PreTrainedModel`` or ``PeftModel``.
        config: name of a method or a configuration.
        kernel: path of the attention drops. ``fused`` keeps PyTorch's fused attention and is
            possible for column and span patterns; ``reference`` computes the attention map;
            ``auto`` takes ``fused`` where it is possible. ``Attachment.sites`` tells.
        lm_loss: how a language model's loss is computed in training passes, where the configuration
            has a consistency loss. ``chunked`` never holds logits of the size
            ``[tokens, vocabulary]``, and ``output.logits`` is then ``None``; ``full`` leaves the
            model its logits; ``auto`` takes ``chunked`` where the vocabulary is large (8,192 or
            more) and the model's loss allows it.
        data_parallel_rank: this process's place among those that see different data; masks differ
            between places, though all processes are seeded alike. ``None`` asks PyTorch's process
            group and the meshes of sharded weights. See :mod:`hiddenkey.parallel`.

    Raises:
        ConfigError: if the configuration does not fit the model, with all reasons.
        AttachError: if the model does not have, or does not show, what the configuration acts on.
    """
    config = method(config) if isinstance(config, str) else config
    transformer = anatomy.transformer_of(model)
    refuse_replaced(transformer)
    entry = entry_of(model, transformer)
    if faults := adapter_faults(model, config):
        raise ConfigError(faults)
    layers = anatomy.find_layers(transformer, config.attention_modules)
    plan = make_plan(config, transformer, layers, kernel, lm_loss)
    if previous := attachment_of(model):
        previous.detach()
    attachment = Attachment(transformer, config, layers, plan, lm_loss, data_parallel_rank, entry)
    try:
        attachment._install()
    except BaseException:
        attachment.detach()
        raise
    return attachment


def attachment_of(model: nn.Module) -> Attachment | None:
    """Return what :func:`attach` gave for a model, as long as it is at work."""
    found = anatomy.transformer_of(model).__dict__.get(_ATTACHMENT)
    return found if isinstance(found, Attachment) else None


class Attachment:
    """A configuration at work on a model, from :func:`attach`; a context manager.

    Attributes:
        config: the configuration.
        sites: where it acts.
        gaps: layers in which a position does not exist, such as the attention of a Mamba layer.
    """

    config: DropoutConfig
    sites: tuple[Site, ...]
    gaps: tuple[Gap, ...]

    def __init__(
        self,
        transformer: nn.Module,
        config: DropoutConfig,
        layers: list[Part],
        plan: Plan,
        lm_loss: LanguageModelLoss = "auto",
        data_parallel_rank: int | None = None,
        entry: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.sites = tuple(place.site for place in plan.places)
        self.gaps = plan.gaps
        self.meter = LossMeter()
        self._transformer = transformer
        self._entry = transformer if entry is None else entry  # its call is one training pass
        self._layers = layers
        self._parameters = tuple(inspect.signature(self._entry.forward).parameters)
        self._plan = plan
        self._lm_loss = lm_loss
        self._counters: dict[str, ShareCounter] = {}
        self._rates = Rates(self.sites)
        self._own: OwnLoss | None = None
        self._first_pass: FirstPass | None = None
        self._handles: list[Any] = []
        self._attention: AttentionInstallation | None = None
        self._silenced: list[model_dropout.Setting] = []
        self._consistency: ConsistencyPass | None = None
        self._prefix: SharedPrefix | None = None
        self._other: OtherPass | OtherStates | None = None
        self._visible: dict[bool, Tensor | None] = {}  # by whether it is the decoder's
        self._inside_forward = False
        self._draws = OwnDraws(transformer, [part.module for part in layers], data_parallel_rank)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __str__(self) -> str:
        return "\n".join(self.summary())

    @property
    def losses(self) -> dict[str, float]:
        """Parts of the last training pass's loss: ``task`` and, where it ran, ``consistency``.

        They add up to the loss. Reading waits for the device.
        """
        return self.meter.last()

    @property
    def rates(self) -> dict[str, float]:
        """The rates in force, by :attr:`Site.key`: the sites' own until :meth:`set_rates`."""
        return dict(self._rates.current)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Change rates from the next pass on; configuration and sites keep the configured ones.

        Nothing is drawn where the rate is 0.

        Args:
            rates: by :attr:`Site.key`, or by position for all of its sites.

        Raises:
            ConfigError: with every unknown key and every rate outside [0, 1).
        """
        self._rates.change(rates)

    def own_loss(
        self, labels: Tensor | None = None, *, items: Tensor | int | None = None
    ) -> OwnLoss:
        """Hold one training pass whose task loss the script computes by itself.

        ::

            with attachment.own_loss(labels) as own:
                logits = model(**inputs).logits
                loss = own.total(my_loss(logits, labels))
            loss.backward()

        The consistency loss is added by ``own.total``, on the scale of a mean over sequences, or
        over labelled tokens where the model's task is token-wise. Outside of training it adds
        nothing. The logits are always there, whatever ``lm_loss`` is.

        Args:
            labels: ``[batch, ...]`` in the form that the model itself would take; −100 marks tokens
                that are not compared. Needed where the task is token-wise.
            items: divisor of the loss in place of the pass's own number of sequences or labelled
                tokens, where the task loss is a sum that is divided by it too (Trainer's
                ``num_items_in_batch`` under gradient accumulation).

        Raises:
            ConsistencyError: if labels are missing, if the loss averages over both passes, or if
                another ``own_loss`` is open; on leaving, if a pass was seen and ``own.total`` was
                not called.
        """
        if self._own is not None:
            raise ConsistencyError("own_loss is open already; leave it before the next one")
        if self._consistency is not None:
            self._consistency.check_own_loss(labels)

        def close() -> None:
            self._own = None

        self._own = OwnLoss(
            labels,
            items,
            expects_pass=lambda: self._transformer.training and torch.is_grad_enabled(),
            record=self.meter.add,
            close=close,
        )
        return self._own

    @property
    def consistency_passes(self) -> int:
        """Training passes seen since attaching that count for ``Consistency.every``."""
        return self._consistency.passes if self._consistency else 0

    @consistency_passes.setter
    def consistency_passes(self, passes: int) -> None:
        if self._consistency:
            self._consistency.passes = passes

    @property
    def lm_sums(self) -> Sums | None:
        """Sums over the labelled tokens of the last training pass, on their device.

        ``None`` where its loss was not a chunked language-model loss.
        """
        return self._consistency.lm_sums if self._consistency else None

    def shares(self) -> dict[str, float]:
        """Return the share of visible units that fell at each site since the last call.

        Keys are :attr:`Site.key`; NaN where a site was not reached. Padding is not counted, nor are
        passes in which the rate was 0, and a recomputed layer counts once. Reading waits for the
        device.
        """
        shares = {key: counter.read() for key, counter in self._counters.items()}
        return {
            key: 0.0 if math.isnan(share) and self._rates.current[key] == 0 else share
            for key, share in shares.items()
        }

    def summary(self) -> list[str]:
        """Return one line for each drop, and one for the loss."""
        lines = []
        for drop in self.config.drops:
            own = [site for site in self.sites if site.position == drop.position]
            reach = (
                f"{len({site.layer for site in own})} of {len(self._layers)} layers"
                if own[0].layer is not None
                else (own[0].name)
            )
            kernels = " and ".join(dict.fromkeys(site.kernel for site in own))
            lines.append(
                f"{drop.position}: {drop.pattern}, rate {drop.rate:g}, rescale {drop.rescaling},"
                f" {reach}{self._without(drop.position)}, {kernels}"
            )
        if loss := self.config.consistency:
            lines.append(
                f"consistency: {loss.kind}, weight {loss.weight:g}, backward {loss.backward},"
                f" fraction {loss.fraction:g}, every {loss.every}"
                + (f", other pass {loss.precision}" if loss.precision != "same" else "")
                + (", chunked" if self._consistency and self._consistency.is_chunked else "")
                + (f", lower {len(self._prefix.layers)} layers shared" if self._prefix else "")
            )
        state = "on" if self.config.keep_model_dropout else "off"
        return lines or [f"no noise; the model's own dropout is {state}"]

    def _without(self, position: str) -> str:
        gaps = [gap.layer for gap in self.gaps if gap.position == position]
        numbers = ", ".join(str(layer) for layer in gaps if layer is not None)
        outside = [g.name for g in self.gaps if g.position == position and g.layer is None]
        words = [f"layers without: {numbers}"] if numbers else []
        words += [f"not in {', '.join(outside)}"] if outside else []
        return f" ({'; '.join(words)})" if words else ""

    def detach(self) -> None:
        """Give the model back exactly as it was before :func:`attach`. Does nothing twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._first_pass is not None:
            self._first_pass.remove()
        if self._consistency is not None:
            self._consistency.remove()
            self._consistency = None
        self._prefix = None
        if self._attention is not None:
            self._attention.remove()
            self._attention = None
        model_dropout.restore(self._silenced)
        self._silenced = []
        if self._transformer.__dict__.get(_ATTACHMENT) is self:
            del self._transformer.__dict__[_ATTACHMENT]

    def _install(self) -> None:
        self._transformer.__dict__[_ATTACHMENT] = self
        refuse_unpreserved_rng(self._transformer, self._layers)
        self._counters = {place.site.key: ShareCounter() for place in self._plan.places}
        for place in self._plan.around:
            key, before = place.site.key, POSITIONS[place.drop.position].acts == "before"
            counter = self._counters[key]
            decoder = anatomy.in_decoder(self._transformer, place.part.name)
            visible = functools.partial(self._get_visible, decoder)
            site = SequenceSite(place.drop, visible, self._counts, counter)
            self._rates.connect(key, site.set_rate)
            self._handles.append(site.hook(place.part.module, before=before))
        if self._plan.attention:
            self._attention = AttentionInstallation(
                self._transformer,
                self._plan,
                self.config,
                self._counters,
                self._rates,
                self._counts,
            )
        self._first_pass = FirstPass(self._plan.places, self._layers, self._counters)
        if not self.config.keep_model_dropout:
            self._silenced = model_dropout.switch_off(self._transformer)
        if self.config.consistency is not None:
            self._consistency = ConsistencyPass(
                self.config.consistency,
                self._transformer,
                self._layers[-1].module,
                self._lm_loss,
                self._entry,
            )
            self._prefix = self._find_prefix()
        enter = self._entry.register_forward_pre_hook(self._enter, with_kwargs=True)
        # the first of all: FSDP2 finds its way back through the outputs that its own hook is shown
        leave = self._entry.register_forward_hook(self._leave, prepend=True, with_kwargs=True)
        tidy = self._entry.register_forward_hook(self._tidy, always_call=True)
        self._handles += [enter, leave, tidy]
        for part in self._layers:
            hook = part.module.register_forward_hook(self._restore_view_in_backward)
            self._handles.append(hook)

    def _find_prefix(self) -> SharedPrefix | None:
        """Return the layers in which both passes are equal, if there are any."""
        if self.config.keep_model_dropout or any(s.position == "input" for s in self.sites):
            return None
        if self._entry is not self._transformer:  # it may run the layers more than once
            return None
        first = min((s.layer for s in self.sites if s.layer is not None), default=0)
        if first == 0:
            return None
        return SharedPrefix(self._transformer, self._layers[:first], self._layers[first:])

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        refuse_replica(module)
        refuse_unpreserved_rng(self._transformer, self._layers)
        self._check_places()
        self._draws.begin()
        self._rates.act(self._rates.current)
        arguments = self._by_name(args, kwargs)
        if self._own is not None:
            arguments = self._own.complete(arguments)
        self._inside_forward = True
        self._other = None
        if self._consistency is not None and torch.is_grad_enabled():
            if arguments.get("fused_lm_head"):
                raise ConsistencyError(
                    "a consistency loss is configured, but TRL's trainers do not train on the"
                    " model's own loss, where it is added; instead of SFTTrainer use"
                    " hiddenkey.integrations.trl.ConsistencySFTTrainer; DPO, KTO, GRPO and RLOO"
                    " need deterministic log-probabilities: set consistency=None"
                )
            self._consistency.is_own_loss = self._own is not None
            if self._consistency.due():
                self._other = self._run_other(self._consistency, arguments)
            self._consistency.begin(arguments, self._other)
        self._see(arguments)

    def _run_other(
        self, consistency: ConsistencyPass, arguments: Mapping[str, Any]
    ) -> OtherPass | OtherStates:
        chosen = consistency.choose(arguments)

        def other() -> OtherPass | OtherStates:
            self._see(select(arguments, chosen))
            return consistency.before(self._run, arguments, chosen)

        prefix = self._prefix
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
            self._prefix = None
            return other()
        found = shared()
        prefix.give(None, once_more=False)
        return found

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self._inside_forward = False
        self._draws.end()
        shared = self._prefix is not None and self._prefix.release()
        if shared and getattr(output, "past_key_values", None) is not None:
            output["past_key_values"] = None  # the layers that ran before are not in it
        if not module.training or not torch.is_grad_enabled():
            return
        if self._first_pass is not None and not torch.compiler.is_compiling():
            rates = self._rates.current
            if all(rates[site.key] for site in self.sites if site.rate):
                self._first_pass.finish(rates)  # in a warm-up the first pass draws nothing
                self._first_pass = None
        if self._consistency is None:
            if self._own is not None:
                self._own.receive(None)
            else:
                self.meter.add(getattr(output, "loss", None), None)
            return
        other, self._other = self._other, None
        arguments = self._by_name(args, kwargs)
        if self._own is not None:
            arguments = self._own.complete(arguments)
        loss, extra = self._consistency.after(output, arguments, other)
        if self._own is not None:
            self._own.receive(extra)
            return
        if loss is not None and loss is not output.loss:
            output["loss"] = loss
        task = loss if loss is None or extra is None else loss.detach() - extra.detach()
        self.meter.add(task, extra)

    def _tidy(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave nothing armed after a pass that failed."""
        self._other = None
        self._draws.end()
        if self._prefix is not None:
            self._prefix.release()
        if self._consistency is not None:
            self._consistency.end()

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the model past its own hooks, where these are installed."""
        if self._own is not None:
            arguments = self._own.reduce(arguments)
        return self._entry.forward(**arguments)

    def _restore_view_in_backward(self, layer: nn.Module, args: Any, output: Any) -> None:
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
        visible, rates = dict(self._visible), self._rates.current

        def restore(gradient: Tensor) -> None:
            self._visible = visible
            self._rates.act(rates)

        states.register_hook(restore)  # type: ignore[no-untyped-call]

    def _see(self, arguments: Mapping[str, Any]) -> None:
        given = (arguments.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
        tokens = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
        self._visible.clear()
        if tokens is not None and tokens.dim() > 1:
            self._visible[False] = visible_tokens(arguments, tokens.shape[:2])
        mask = arguments.get("decoder_attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._visible[True] = mask.bool()

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs}

    def _get_visible(self, decoder: bool) -> Tensor | None:
        return self._visible.get(decoder)

    def _counts(self) -> bool:
        """Whether a draw counts: it does not while a backward pass recomputes a layer."""
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return False
        if self._consistency is not None and not self._inside_forward and torch.is_grad_enabled():
            raise ConsistencyError(
                "a consistency loss is configured, but this training pass goes around the model's"
                " own call, where the loss is added; call the model that was attached, or set"
                " consistency=None"
            )
        return True

    def _check_places(self) -> None:
        for part in (place.part for place in self._plan.places):
            if _submodule(self._transformer, part.name) is not part.module:
                raise AttachError(
                    f"module {part.name} was replaced after attach, so its noise would be lost;"
                    " attach after get_peft_model and after every other change of the model"
                )


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:  # a module on the way to it was replaced
        return None


def refuse_unpreserved_rng(transformer: nn.Module, layers: list[Part]) -> None:
    """Refuse activation checkpointing that would recompute a layer with other masks.

    Raises:
        AttachError: if ``preserve_rng_state=False`` is set, by the model or by a wrapper that was
            put around a layer, or if a re-entrant wrapper was put around it after attach.
    """
    for part in layers:
        layer = _submodule(transformer, part.name) or part.module
        implementation = getattr(getattr(layer, "checkpoint_impl", None), "name", None)
        if layer is not part.module and implementation == "REENTRANT":
            raise AttachError(
                f"torch's re-entrant checkpoint wrapper was put around {part.name} after attach, so"
                " that a recomputed layer may see the padding of another batch; wrap before"
                " attach, or take CheckpointImpl.NO_REENTRANT"
            )
        for name in ("_gradient_checkpointing_func", "checkpoint_fn"):
            settings = getattr(getattr(layer, name, None), "keywords", {})
            if settings.get("preserve_rng_state") is False:
                raise AttachError(
                    "activation checkpointing with preserve_rng_state=False recomputes a layer with"
                    " other dropout masks and gives wrong gradients; remove it or set it to True"
                    " (accelerate's FSDP checkpointing sets it: use the model's own,"
                    " activation_checkpointing_enable() or Trainer's activation_checkpointing)"
                )
