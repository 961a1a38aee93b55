"""Puts a configuration on a model, and takes it off again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType

import torch
from torch import Tensor, nn

from hiddenkey import anatomy, log
from hiddenkey.anatomy import Gap, Part
from hiddenkey.anatomy.adapters import Adapters
from hiddenkey.attachment import model_dropout
from hiddenkey.attachment.attention_sites import AttentionInstallation
from hiddenkey.attachment.called_module import adapter_faults, entry_of, prompts_around
from hiddenkey.attachment.compiled import forget_compiled
from hiddenkey.attachment.kept_layers import KeptAdapters, KeptLayers
from hiddenkey.attachment.owners import disown, refuse_owned, take
from hiddenkey.attachment.plan import Kernel, make_plan
from hiddenkey.attachment.saved_copies import SavedCopies
from hiddenkey.attachment.sequence_sites import install_sequence_sites
from hiddenkey.attachment.step_cost import ROUNDS, StepCost, measure
from hiddenkey.attachment.summary import described, loss_described
from hiddenkey.attachment.versions import warn_untried
from hiddenkey.chunked_loss.sums import Sums
from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.framework.catalogue import method
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.site import Site
from hiddenkey.measure import LossMeter, ShareCounter
from hiddenkey.sequence.site import Removable
from hiddenkey.step.added_loss import AddedLoss, LanguageModelLoss
from hiddenkey.step.guards import refuse_replaced, refuse_unpreserved_rng
from hiddenkey.step.history import History
from hiddenkey.step.hooks import StepHooks
from hiddenkey.step.own_loss import OwnLoss
from hiddenkey.step.parallel import OwnRandomNumbers, rank_faults
from hiddenkey.step.places import SitePlan
from hiddenkey.step.rates import Rates
from hiddenkey.step.temporal import TemporalLoss

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
    without it (those of PyTorch's own ``nn.TransformerEncoder`` to about 1e-7). Attach after
    ``get_peft_model``. A model that has a configuration loses it first.

    Args:
        model: a transformers ``PreTrainedModel``, a ``PeftModel`` around one, or any module with
            layers that attend, also inside DistributedDataParallel or torch.compile. In a network
            without attention, the configuration's ``hidden_modules`` names where it drops.
        config: name of a method or a configuration.
        kernel: path of the attention drops. ``fused`` keeps PyTorch's fused attention and is
            possible for column and span patterns; ``reference`` computes the attention map;
            ``auto`` takes ``fused`` where it is possible. See ``Attachment.sites``.
        lm_loss: how a language model's loss is computed in training passes, where the configuration
            has a consistency loss. ``chunked`` never holds logits of the size
            ``[tokens, vocabulary]``, and ``output.logits`` is then ``None``; ``full`` leaves the
            model its logits; ``auto`` takes ``chunked`` where the vocabulary is large (8,192 or
            more) and the model's loss allows it.
        data_parallel_rank: this process's place among those that see different data; masks differ
            between places, though all processes are seeded alike. ``None`` asks PyTorch's process
            group and the meshes of sharded weights. See :mod:`hiddenkey.step.parallel`.

    Raises:
        ConfigError: if the configuration does not fit the model, with all reasons.
        AttachError: if the model does not have, or does not show, what the configuration acts on.

    Warns:
        VersionWarning: once, of a version of torch, transformers or PEFT that was not tried.
    """
    warn_untried()
    config = method(config) if isinstance(config, str) else config
    if not isinstance(config, DropoutConfig):
        raise ConfigError(f"config must be a method's name or a DropoutConfig, got {config!r}")
    transformer = anatomy.transformer_of(model)
    refuse_replaced(transformer)
    entry = entry_of(model, transformer)
    if faults := rank_faults(data_parallel_rank) + adapter_faults(model, config):
        raise ConfigError(faults)
    layers = anatomy.find_layers(transformer, config.attention_modules, config.hidden_modules)
    plan = make_plan(config, transformer, layers, kernel, lm_loss)
    previous = attachment_of(model)
    parts = [place.part for place in plan.places]
    refuse_owned(parts, previous)
    if previous is not None:
        previous.detach()
    adapters = Adapters(transformer, prompts_around(model))
    attachment = Attachment(transformer, config, layers, plan, data_parallel_rank, entry, adapters)
    try:
        attachment._install(transformer, layers, plan, lm_loss, adapters)
    except BaseException:
        attachment.detach()
        raise
    forget_compiled()
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
        meter: adds up the parts of the losses, for logs over several passes.
    """

    config: DropoutConfig
    sites: tuple[Site, ...]
    gaps: tuple[Gap, ...]

    def __init__(
        self,
        transformer: nn.Module,
        config: DropoutConfig,
        layers: list[Part],
        plan: SitePlan,
        data_parallel_rank: int | None,
        entry: nn.Module,
        adapters: Adapters,
    ) -> None:
        self.config = config
        self.sites = tuple(place.site for place in plan.places)
        self.gaps = plan.gaps
        self.meter = LossMeter()
        self._layer_count = len(layers)
        self._counters: dict[str, ShareCounter] = {}
        self._rates = Rates(self.sites)
        self._handles: list[Removable] = []
        self._attention: AttentionInstallation | None = None
        self._silenced: list[model_dropout.Setting] = []
        self._own_dropout: str | None = None
        draws = OwnRandomNumbers(transformer, [part.module for part in layers], data_parallel_rank)
        # None once detached: who reads an attachment later must not keep its model
        self._transformer: nn.Module | None = transformer
        self._entry: nn.Module | None = entry  # its call is one training pass
        self._step: StepHooks | None = StepHooks(
            transformer, entry, adapters, layers, plan, config, self._rates, draws, self.meter
        )

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
    def called_module(self) -> nn.Module:
        """The module whose call is one training pass; a second pass goes past its hooks.

        Raises:
            AttachError: if it was detached, which lets go of the model.
        """
        if self._entry is None:
            raise AttachError("this attachment was detached, so it has no model that is called")
        return self._entry

    def is_in(self, model: nn.Module) -> bool:
        """Whether it is at work on a model, or on a model inside of a module of one's own."""
        found = self._transformer is not None
        return found and any(module is self._transformer for module in model.modules())

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
        if self._step is not None and self._step.own is not None:
            raise ConsistencyError("own_loss is open already; leave it before the next one")
        if self._added_loss is not None:
            self._added_loss.check_own_loss(labels)
        own = OwnLoss(
            labels,
            items,
            expects_pass=lambda: self.trains,
            record=self.meter.add,
            close=self._close_own_loss,
        )
        if self._step is not None:
            self._step.own = own
        return own

    @property
    def trains(self) -> bool:
        """Whether a call would be a training pass; a detached model is thought to train."""
        is_training = self._transformer is None or self._transformer.training
        is_paused = self._step is not None and self._step.is_paused
        return is_training and not is_paused and torch.is_grad_enabled()

    def _close_own_loss(self) -> None:
        if self._step is not None:
            self._step.own = None

    @property
    def _added_loss(self) -> AddedLoss | None:
        return None if self._step is None else self._step.consistency

    @property
    def consistency_passes(self) -> int:
        """Training passes seen since attaching that count for ``Consistency.every``."""
        return self._added_loss.passes if self._added_loss else 0

    @consistency_passes.setter
    def consistency_passes(self, passes: int) -> None:
        if self._added_loss:
            self._added_loss.passes = passes

    @property
    def history(self) -> History | None:
        """Predictions of the examples, with ``Consistency(target="history")``; else ``None``.

        Save its ``state_dict()`` in a checkpoint; on several processes call its ``exchange()``
        after each epoch. Trainer and Lightning do so by their callbacks.
        """
        loss = self._added_loss
        return loss.history if isinstance(loss, TemporalLoss) else None

    @property
    def lm_sums(self) -> Sums | None:
        """Sums over the labelled tokens of the last training pass, on their device.

        ``None`` where its loss was not a chunked language-model loss.
        """
        return self._added_loss.lm_sums if self._added_loss else None

    def shares(self) -> dict[str, float]:
        """Return the observed drop rate of visible units at each site since the last call.

        Keys are :attr:`Site.key`; NaN where a site was not reached. Padding is not counted, nor are
        passes in which the rate was 0, and activation checkpointing counts once. Reading waits for
        the device.
        """
        shares = {key: counter.read() for key, counter in self._counters.items()}
        return {
            key: 0.0 if math.isnan(share) and self._rates.current[key] == 0 else share
            for key, share in shares.items()
        }

    def step_cost(self, loss: Callable[[], Tensor], *, rounds: int = ROUNDS) -> StepCost:
        """Measure what a training pass costs with this attachment, beside the same without.

        ::

            print(attachment.step_cost(lambda: model(**batch).loss))

        Forward and backward passes with the method and without take turns. They leave no trace: no
        gradient, count, prediction or random number is another one afterwards.

        Args:
            loss: calls the model on one batch and returns its loss, a scalar.
            rounds: pairs of passes to time, after two that warm up.

        Raises:
            AttachError: if the model is not in training mode, has no weight to train, or no loss
                comes back.
            ConfigError: if there is no pair to count, or ``loss`` cannot be called.
        """
        if self._step is None:
            raise AttachError("this attachment was detached, so there is nothing to measure")
        return measure(self._step, self._counters, loss, rounds)

    def summary(self) -> list[str]:
        """Return one line for each drop, one for the loss, and one for what was switched off."""
        loss = self.config.consistency
        noise = [
            described(drop, self.sites, self.gaps, self._layer_count) for drop in self.config.drops
        ]
        lines = noise if loss is None else [*noise, loss_described(loss, self._step)]
        if schedule := self.config.schedule:
            lines.append(f"{schedule.described()}; in a loop of your own: set_rates")
        if self._own_dropout:
            return [*(lines or ["no noise"]), self._own_dropout]
        state = "on" if self.config.keep_model_dropout else "off"
        return lines or [f"no noise; the model's own dropout is {state}"]

    def leave_pass(self) -> None:
        """Leave nothing of a training pass that was interrupted; the next pass does so by itself.

        An exception ends a pass. Ctrl-C does not: until then the model holds what the pass put
        there, and the generators are those of the pass where it has random numbers of its own.
        """
        if self._step is not None:
            self._step.leave()

    def detach(self) -> None:
        """Give the model back exactly as it was before :func:`attach`. Does nothing twice.

        What was counted can still be read, and the model is not kept for it.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._step is not None:
            self._step.remove()
        self._rates.disconnect()
        if self._attention is not None:
            self._attention.remove()
            self._attention = None
        model_dropout.restore(self._silenced)
        self._silenced = []
        held = {} if self._transformer is None else self._transformer.__dict__
        if held.get(_ATTACHMENT) is self:
            del held[_ATTACHMENT]
        disown(self)
        self._transformer = self._entry = self._step = None

    def _install(
        self,
        transformer: nn.Module,
        layers: list[Part],
        plan: SitePlan,
        lm_loss: LanguageModelLoss,
        adapters: Adapters,
    ) -> None:
        step = self._step
        assert step is not None  # it was not detached before
        transformer.__dict__[_ATTACHMENT] = self
        take([place.part for place in plan.places], self)
        refuse_unpreserved_rng(transformer, layers)
        self._counters = {place.site.key: ShareCounter() for place in plan.places}
        self._handles += install_sequence_sites(
            transformer, layers, plan, self._counters, self._rates, step
        )
        parts = [place.part for place in plan.places]
        step.before_pass.append(KeptLayers(transformer, parts, layers).check)
        if adapted := [p.part.module for p in plan.places if p.site.position == "update"]:
            step.before_pass.append(KeptAdapters(transformer, adapters, adapted).check)
        step.before_pass.append(SavedCopies(transformer, parts, layers).check)
        if plan.attention:
            self._attention = AttentionInstallation(
                transformer, plan, self.config, self._counters, self._rates, step
            )
            step.before_pass.append(self._attention.begin)
        if not self.config.keep_model_dropout:
            self._silenced = model_dropout.switch_off(transformer)
            self._own_dropout = model_dropout.described(self._silenced)
        step.install(self._counters, lm_loss)
        if self._own_dropout:
            log.once(model_dropout.OWN_DROPOUT, self._own_dropout)
