"""The rates at which an attached configuration acts, which may change during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hiddenkey.errors import ConfigError, not_one_of
from hiddenkey.framework.config import rate_faults
from hiddenkey.framework.site import Site


class Rates:
    """The rate of each site.

    Args:
        sites: of the attachment, with the configured rates.

    Attributes:
        current: rates of the passes that begin now, by :attr:`Site.key`; never changed in place.
        acting: those that the sites draw with at this moment.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.current: Mapping[str, float] = {site.key: site.rate for site in sites}
        self._positions = {site.key: site.position for site in sites}
        self._setters: dict[str, Callable[[float], None]] = {}
        self.acting: Mapping[str, float] = self.current

    def connect(self, key: str, set_rate: Callable[[float], None]) -> None:
        """Let the site ``key`` follow, through ``set_rate``."""
        self._setters[key] = set_rate

    def disconnect(self) -> None:
        """Let no site follow any more, and keep none."""
        self._setters.clear()

    def change(self, rates: Mapping[str, float]) -> None:
        """See :meth:`hiddenkey.Attachment.set_rates`."""
        known = [*dict.fromkeys(self._positions.values()), *self._positions]
        faults = [not_one_of("a key of rates", key, known) for key in rates if key not in known]
        faults += [fault for key, rate in rates.items() for fault in rate_faults(rate, key)]
        if faults:
            raise ConfigError(faults)
        new = {
            key: rates.get(key, rates.get(self._positions[key], rate))
            for key, rate in self.current.items()
        }
        if new != self.current:
            self.current = new
        self.act(self.current)

    def act(self, rates: Mapping[str, float]) -> None:
        """Let the sites draw with ``rates``: a pass that runs again with those that it had."""
        if self.acting is rates:
            return
        self.acting = rates
        for key, set_rate in self._setters.items():
            set_rate(rates[key])
