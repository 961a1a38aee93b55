"""The drop rates that a training observed at the sites of an attachment."""

from __future__ import annotations

import math
from statistics import fmean

import torch

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.framework.schedule import by_position
from hiddenkey.log import is_first_process, logger
from hiddenkey.step.parallel import means_over_processes


class ReachedSites:
    """Reads the observed drop rates during a training, and remembers them.

    Args:
        attachment: at work.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._readings: dict[str, list[float]] = {}

    def read(self, device: torch.device, *, per_layer: bool = False) -> dict[str, float]:
        """Return the observed drop rates since the last reading, without sites not reached.

        They are means over all processes, which must all call this.

        Args:
            device: where the process group's backend works.
            per_layer: by :attr:`Site.key`, in place of the mean over a position's sites.
        """
        shares = means_over_processes(self._attachment.shares(), device)
        observed = {key: share for key, share in shares.items() if not math.isnan(share)}
        rates = self._attachment.rates
        for key, share in observed.items():
            if share or rates[key]:  # else nothing was to be dropped
                self._readings.setdefault(key, []).append(share)
        if per_layer:
            return observed
        return by_position(observed, [s for s in self._attachment.sites if s.key in observed])

    def means(self) -> dict[str, float]:
        """Return the mean of all readings of each site that was reached, by :attr:`Site.key`."""
        return {key: fmean(readings) for key, readings in self._readings.items()}

    def report(self) -> None:
        """Log an error that names the sites which no pass reached since the beginning."""
        names = {site.key: site.name for site in self._attachment.sites if site.rate}
        lost = [f"{key} ({name})" for key, name in names.items() if key not in self._readings]
        if lost and is_first_process():
            logger.error(
                "no training pass reached %s, so that nothing was dropped there; see 'hiddenkey"
                " doctor', or leave the position out",
                ", ".join(lost),
            )
