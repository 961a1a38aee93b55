"""The folder of the claims: page, Markdown, pictures and values, each file written whole."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.findings import Effect, Evidence, Finding
from hiddenkey.lab.claims.markdown import markdown
from hiddenkey.lab.claims.page import render_page
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
        out.write(TEXT, markdown(evidence))
        page = out.write(PAGE, render_page(evidence, pictures))
        _remove_others(folder, {picture.plot.name for picture in pictures})
    return page


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in list(folder.iterdir()):
        if _PICTURE.fullmatch(path.name) and path.stem not in names:
            path.unlink(missing_ok=True)


def to_plain(evidence: Evidence) -> dict[str, Any]:
    """Return all values, effects and verdicts as JSON's types; infinities become null."""
    return {
        "scale": evidence.scale.name,
        "summary": evidence.scale.summary,
        "seeds": list(evidence.scale.seeds),
        "command": evidence.command,
        "runs": evidence.runs,
        "started": evidence.started,
        "ended": evidence.ended,
        "environments": [
            {"runs": runs, **environment} for environment, runs in evidence.environments
        ],
        "claims": [_finding(finding) for finding in evidence.findings],
        "chosen": [
            {
                "task": found.task,
                "choice": found.choice,
                "learning_rate": found.learning_rate,
                "rate": found.rate,
                "runs": found.runs,
                "scores": [
                    {"learning_rate": learning_rate, "rate": rate, "held_out": score}
                    for (learning_rate, rate), score in found.scores.items()
                ],
            }
            for found in evidence.chosen
        ],
        "values": list(_values(evidence)),
    }


def _values(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for (task, arm, measure), by_seed in evidence.values.items():
        seeds = {str(seed): value for seed, value in sorted(by_seed.items())}
        yield {"task": task, "arm": arm, "measure": measure, "by_seed": seeds}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "claim": finding.claim.name,
        "title": finding.claim.title,
        "verdict": finding.verdict,
        "p_holds": finding.p_holds,
        "p_fails": finding.p_fails,
        "needed": finding.needed,
        "sentences": list(finding.sentences),
        "left_out": dict(finding.left_out),
        "missing": finding.missing,
        "questions": [_effect(effect) for effect in finding.questions],
        "by_task": [_effect(effect) for effect in finding.by_task],
        "power": [
            {**vars(power), "half_width": _finite(power.half_width)} for power in finding.power
        ],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    contrast = effect.contrast
    return {
        "question": contrast.name,
        "measure": contrast.measure,
        "weights": dict(contrast.weights),
        "expect": contrast.expect,
        "margin": contrast.margin,
        "expected_low": _finite(contrast.low),
        "expected_high": _finite(contrast.high),
        "task": effect.task,
        "values": list(effect.values),
        "mean": effect.mean,
        "low": effect.interval and effect.interval[0],
        "high": effect.interval and effect.interval[1],
        "p_holds": effect.p_holds,
        "p_fails": effect.p_fails,
        "verdict": effect.verdict,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
