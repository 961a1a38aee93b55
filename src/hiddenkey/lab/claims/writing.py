"""The folder of the claims: page, Markdown, pictures and values, each file written whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.claims.effects import Effect
from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.findings import Evidence, Finding
from hiddenkey.lab.claims.page import markdown, render_page
from hiddenkey.lab.present.files import page_folder

PAGE: Final = "index.html"
TEXT: Final = "claims.md"
VALUES: Final = "evidence.json"
_PICTURE: Final = re.compile(r"claims_[a-z0-9_]+\.(png|svg)")


def write(evidence: Evidence, folder: Path) -> Path:
    """Write ``index.html``, ``claims.md``, ``evidence.json`` and the pictures.

    Each file appears whole, the page last. Pictures of an earlier page that this one does not have
    are removed.

    Args:
        evidence: what to say.
        folder: where to; made if it is not there.

    Returns:
        The page's path.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    with page_folder(folder) as out:
        pictures = out.draw(list_plots(evidence))
        out.write_values(VALUES, to_plain(evidence))
        out.write(TEXT, markdown(evidence, pictures))
        page = out.write(PAGE, render_page(evidence, pictures))
        names = {picture.plot.name for picture in pictures}
        for path in list(folder.iterdir()):
            if _PICTURE.fullmatch(path.name) and path.stem not in names:
                path.unlink(missing_ok=True)
    return page


def to_plain(evidence: Evidence) -> dict[str, Any]:
    """Return all values, effects and verdicts by name."""
    return {
        "scale": evidence.scale.name,
        "summary": evidence.scale.summary,
        "seeds": evidence.scale.seeds,
        **_fields(evidence, "command", "runs", "started", "ended"),
        "environments": [{"runs": runs, **found} for found, runs in evidence.environments],
        "claims": [_finding(finding) for finding in evidence.findings],
        "chosen": [
            {
                **_fields(found, "task", "choice", "learning_rate", "rate", "runs"),
                "scores": [
                    {"learning_rate": learning_rate, "rate": rate, "held_out": score}
                    for (learning_rate, rate), score in found.scores.items()
                ],
            }
            for found in evidence.chosen
        ],
        "values": [
            {"task": task, "arm": name, "measure": measure, "by_seed": dict(sorted(found.items()))}
            for (task, name, measure), found in evidence.values.items()
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "claim": finding.claim.name,
        "title": finding.claim.title,
        **_fields(finding, "verdict", "p_holds", "p_fails", "needed", "sentences", "missing"),
        "left_out": finding.left_out,
        "questions": [_effect(effect) for effect in finding.questions],
        "by_task": [_effect(effect) for effect in finding.by_task],
        "power": [
            {
                "contrast": power.contrast.name,
                "seeds": power.design.pairs,
                "tasks": power.design.tasks,
                **_fields(power, "half_width", "detects", "excludes", "needed"),
            }
            for power in finding.power
        ],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    contrast, (low, high) = effect.contrast, effect.interval or (None, None)
    return {
        "question": contrast.name,
        **_fields(contrast, "measure", "expect", "margin"),
        "weights": contrast.weights,
        "expected_low": contrast.low,
        "expected_high": contrast.high,
        **_fields(effect, "task", "values", "mean", "p_holds", "p_fails", "verdict"),
        "low": low,
        "high": high,
    }


def _fields(found: object, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}
