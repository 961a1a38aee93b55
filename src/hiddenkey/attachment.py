"""Puts a configuration on a model, and takes it off again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey import anatomy, model_dropout
from hiddenkey.anatomy import Part
from hiddenkey.attention import dispatch
from hiddenkey.attention.site import AttentionSite
from hiddenkey.catalogue import method
from hiddenkey.config import Drop, DropoutConfig
from hiddenkey.consistency import (
    ConsistencyPass,
    LanguageModelLoss,
    OtherPass,
    select,
    visible_tokens,
)
from hiddenkey.errors import AttachError, ConsistencyError
from hiddenkey.measure import LossMeter, ShareCounter
from hiddenkey.plan import Kernel, Place, Site, make_plan
from hiddenkey.positions import POSITIONS
from hiddenkey.positions.site import SequenceSite
from hiddenkey.prefix import SharedPrefix
from hiddenkey.vocabulary.passes import OtherStates
from hiddenkey.vocabulary.sums import Sums

_ATTACHMENT = "_hiddenkey_attachment"


def attach(
    model: nn.Module,
    config: str | DropoutConfig,
    *,
    kernel: Kernel = "auto",
    lm_loss: LanguageModelLoss = "auto",
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

    Raises:
        ConfigError: if the configuration does not fit the model, with all reasons.
        AttachError: if the model does not have, or does not show, what the configuration acts on.
    """
    config = method(config) if isinstance(config, str) else config
    transformer = anatomy.transformer_of(model)
    layers = anatomy.find_layers(transformer)
    places = make_plan(config, transformer, layers, kernel, lm_loss)
    if previous := attachment_of(model):
        previous.detach()
    attachment = Attachment(transformer, config, layers, places, lm_loss)
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
    """

    config: DropoutConfig
    sites: tuple[Site, ...]

    def __init__(
        self,
        transformer: nn.Module,
        config: DropoutConfig,
        layers: list[Part],
        places: list[Place],
        lm_loss: LanguageModelLoss = "auto",
    ) -> None:
        self.config = config
        self.sites = tuple(place.site for place in places)
        self.meter = LossMeter()
        self._transformer = transformer
        self._layers = layers
        self._parameters = tuple(inspect.signature(transformer.forward).parameters)
        self._places = places
        self._lm_loss = lm_loss
        self._counters: dict[str, ShareCounter] = {}
        self._handles: list[Any] = []
        self._attention_sites: list[nn.Module] = []
        self._attention_before: str | None = None
        self._silenced: list[model_dropout.Setting] = []
        self._consistency: ConsistencyPass | None = None
        self._prefix: SharedPrefix | None = None
        self._other: OtherPass | OtherStates | None = None
        self._visible: Tensor | None = None
        self._inside_forward = False

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

        Keys are :attr:`Site.key`; NaN where a site was not reached. Padding is not counted, and a
        recomputed layer counts once. Reading waits for the device.
        """
        return {key: counter.read() for key, counter in self._counters.items()}

    def summary(self) -> list[str]:
        """Return one line for each drop, and one for the loss."""
        lines = []
        for drop in self.config.drops:
            own = [site for site in self.sites if site.position == drop.position]
            reach = (
                f"{len(own)} of {len(self._layers)} layers"
                if own[0].layer is not None
                else (own[0].name)
            )
            lines.append(
                f"{drop.position}: {drop.pattern}, rate {drop.rate:g}, rescale {drop.rescaling},"
                f" {reach}, {own[0].kernel}"
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

    def detach(self) -> None:
        """Give the model back exactly as it was before :func:`attach`. Does nothing twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._consistency is not None:
            self._consistency.remove()
            self._consistency = None
        self._prefix = None
        for module in self._attention_sites:
            dispatch.set_site(module, None)
        self._attention_sites.clear()
        if self._attention_before is not None:
            dispatch.uninstall(self._transformer, self._attention_before)
            self._attention_before = None
        model_dropout.restore(self._silenced)
        self._silenced = []
        if self._transformer.__dict__.get(_ATTACHMENT) is self:
            del self._transformer.__dict__[_ATTACHMENT]

    def _install(self) -> None:
        self._transformer.__dict__[_ATTACHMENT] = self
        refuse_unpreserved_rng(self._layers)
        attention: dict[nn.Module, dict[str, Drop]] = {}
        for place in self._places:
            self._counters[place.site.key] = counter = ShareCounter()
            acts, module = POSITIONS[place.drop.position].acts, place.part.module
            if acts == "inside":
                attention.setdefault(module, {})[place.site.key] = place.drop
            else:
                sequence = SequenceSite(place.drop, self._get_visible, self._counts, counter)
                self._handles.append(sequence.hook(module, before=acts == "before"))
        if attention:
            self._attention_before = dispatch.install(self._transformer, attention)
            for module, drops in attention.items():
                self._install_attention(module, drops)
        if not self.config.keep_model_dropout:
            self._silenced = model_dropout.switch_off(self._transformer)
        if self.config.consistency is not None:
            self._consistency = ConsistencyPass(
                self.config.consistency,
                self._transformer,
                self._layers[-1].module,
                self._lm_loss,
            )
            self._prefix = self._find_prefix()
        enter = self._transformer.register_forward_pre_hook(self._enter, with_kwargs=True)
        leave = self._transformer.register_forward_hook(self._leave, with_kwargs=True)
        tidy = self._transformer.register_forward_hook(self._tidy, always_call=True)
        self._handles += [enter, leave, tidy]
        for part in self._layers:
            hook = part.module.register_forward_hook(self._restore_view_in_backward)
            self._handles.append(hook)

    def _install_attention(self, module: nn.Module, drops: dict[str, Drop]) -> None:
        by_position = {drop.position: drop for drop in drops.values()}
        site = AttentionSite(
            logits=by_position.get("attention_logits"),
            weights=by_position.get("attention_weights"),
            config=self.config,
            is_fused=all(s.kernel == "fused" for s in self.sites if s.key in drops),
            counting=self._counts,
            counters={drop.position: self._counters[key] for key, drop in drops.items()},
        )
        dispatch.set_site(module, site)
        self._attention_sites.append(module)

    def _find_prefix(self) -> SharedPrefix | None:
        """Return the layers in which both passes are equal, if there are any."""
        if self.config.keep_model_dropout or any(s.position == "input" for s in self.sites):
            return None
        first = min((s.layer for s in self.sites if s.layer is not None), default=0)
        if first == 0:
            return None
        return SharedPrefix(self._transformer, self._layers[:first], self._layers[first:])

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        refuse_unpreserved_rng(self._layers)
        self._check_places()
        arguments = self._by_name(args, kwargs)
        self._inside_forward = True
        self._other = None
        if self._consistency is not None and torch.is_grad_enabled():
            if arguments.get("fused_lm_head"):
                raise ConsistencyError(
                    "a consistency loss is configured, but TRL's SFTTrainer does not train on the"
                    " model's own loss, where it is added; use"
                    " hiddenkey.integrations.trl.ConsistencySFTTrainer, or set consistency=None"
                )
            if self._consistency.due():
                self._other = self._run_other(self._consistency, arguments)
            self._consistency.begin(arguments, self._other)
        self._see(arguments)

    def _run_other(
        self, consistency: ConsistencyPass, arguments: Mapping[str, Any]
    ) -> OtherPass | OtherStates:
        chosen = consistency.choose(arguments)
        shared = self._prefix if self._prefix and self._prefix.run(self._run, arguments) else None
        if shared is not None:
            shared.give(chosen, once_more=True)
        self._see(select(arguments, chosen))
        other = consistency.before(self._run, arguments, chosen)
        if shared is not None:
            shared.give(None, once_more=False)
        return other

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self._inside_forward = False
        shared = self._prefix is not None and self._prefix.release()
        if shared and getattr(output, "past_key_values", None) is not None:
            output["past_key_values"] = None  # the layers that ran before are not in it
        if not module.training or not torch.is_grad_enabled():
            return
        if self._consistency is None:
            self.meter.add(getattr(output, "loss", None), None)
            return
        other, self._other = self._other, None
        loss, extra = self._consistency.after(output, self._by_name(args, kwargs), other)
        if loss is not None and loss is not output.loss:
            output["loss"] = loss
        task = loss if loss is None or extra is None else loss.detach() - extra.detach()
        self.meter.add(task, extra)

    def _tidy(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave nothing armed after a pass that failed."""
        self._other = None
        if self._prefix is not None:
            self._prefix.release()
        if self._consistency is not None:
            self._consistency.end()

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the model past its own hooks, where these are installed."""
        return self._transformer.forward(**arguments)

    def _restore_view_in_backward(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let a layer that is recomputed in a backward pass see the padding of its own batch.

        Gradient reaches a layer's output before the layer is recomputed.
        """
        states = output[0] if isinstance(output, tuple) else output
        if not getattr(layer, "gradient_checkpointing", False) or not states.requires_grad:
            return
        visible = self._visible

        def restore(gradient: Tensor) -> None:
            self._visible = visible

        states.register_hook(restore)

    def _see(self, arguments: Mapping[str, Any]) -> None:
        mask = arguments.get("attention_mask")
        self._visible = None
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._visible = visible_tokens(arguments, mask.shape)

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._parameters, args, strict=False)), **kwargs}

    def _get_visible(self) -> Tensor | None:
        return self._visible

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
        for part in (place.part for place in self._places):
            if self._transformer.get_submodule(part.name) is not part.module:
                raise AttachError(
                    f"module {part.name} was replaced after attach, so its noise would be lost;"
                    " attach after get_peft_model and after every other change of the model"
                )


def refuse_unpreserved_rng(layers: list[Part]) -> None:
    """Refuse activation checkpointing that would recompute a layer with other masks.

    Raises:
        AttachError: if ``preserve_rng_state=False`` is set.
    """
    for part in layers:
        function = getattr(part.module, "_gradient_checkpointing_func", None)
        settings = getattr(function, "keywords", {})
        if settings.get("preserve_rng_state") is False:
            raise AttachError(
                "activation checkpointing with preserve_rng_state=False recomputes a layer with"
                " other dropout masks and gives wrong gradients; remove it or set it to True"
            )
