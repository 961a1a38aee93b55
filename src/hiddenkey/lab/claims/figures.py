"""The figures of the claims: they read the evidence and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hiddenkey.lab.claims.effect_figures import effects_plot
from hiddenkey.lab.claims.findings import Evidence
from hiddenkey.lab.claims.plan import BASELINE
from hiddenkey.lab.claims.sweep_figures import method_of, sweep_plot
from hiddenkey.lab.present.canvas import Palette, Plot


def list_plots(evidence: Evidence) -> list[Plot]:
    """Return the figures of all claims, named ``claims_<scale>_<claim>_<number>``.

    The number is the picture's place in the claim's plan. Pictures without a value are left out,
    and so are those that are tables.
    """
    return list(_plots(evidence))


def _plots(evidence: Evidence) -> Iterator[Plot]:
    palette = _palette(evidence)
    for finding in evidence.findings:
        for index, picture in enumerate(finding.claim.drawings, 1):
            parts = f"claims {evidence.scale.name} {finding.claim.name} {index}"
            name = re.sub(r"[^a-z0-9]+", "_", parts.lower())
            if picture.kind == "sweep":
                yield from sweep_plot(name, finding, picture, evidence, palette)
            elif picture.kind == "effects":
                yield from effects_plot(name, finding, picture)


def _palette(evidence: Evidence) -> Palette:
    """Give each method of a line one colour in all figures."""
    methods = [
        method_of(finding, points)
        for finding in evidence.findings
        for picture in finding.claim.drawings
        for points in picture.series.values()
    ]
    return Palette(tuple(dict.fromkeys((BASELINE, *methods))), BASELINE)
