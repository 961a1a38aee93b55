"""Settings of the commands that have no other home for them; the text under each is its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hiddenkey.lab.run.limits import ABOVE_ZERO


@dataclass(frozen=True)
class DemoOptions:
    """The demonstration's own settings; all others are those of the recipe 'demo'."""

    output: str = "runs/demo"
    """Folder of the runs and the report; an interrupted demonstration goes on there."""
    seeds: int = 5
    """Training seeds for each method."""
    workers: int = 2
    """Runs at the same time, each with its share of the processor's cores."""
    epochs: float = 20.0
    """Passes over the 200 training headlines."""


@dataclass(frozen=True)
class PredictOptions:
    """What a trained adapter says of the texts in a file; with labels, its metrics too."""

    adapter: str
    """Run folder, its adapter folder, or the adapter's name on the Hugging Face hub."""
    file: str
    """Texts: .csv, .tsv (no quoting), .jsonl or .parquet with the columns of the training."""
    output: str | None = None
    """CSV file of the predictions; none: FILE.predictions.csv."""
    text_columns: tuple[str, ...] = ()
    """Text column, or two columns for pairs; none: those of the training."""
    label_column: str | None = None
    """Column of the label, the score or the text that is right; none: that of the training, if the
    file has it."""
    trust_remote_code: bool = False
    """Run code that the base model brings along; it can do whatever you can, so read it first."""


@dataclass(frozen=True)
class ReportOptions:
    """A report on the runs that 'hiddenkey compare' stored, or on a table of other results."""

    folder: str
    """Folder of the comparison, or a .csv, .tsv or .jsonl file of results from anywhere, with the
    columns task, configuration, seed, metric and value (optional: step, seconds)."""
    baseline: str = "lora"
    """Method that the others are compared with; in a file, the configuration."""
    margin: float | None = ABOVE_ZERO.default(None)
    """The smallest difference of the main metric that matters, on its scale; none: that of the
    comparison, else 0.01, or 1 % of the baseline's mean where that is above 1."""
    output: str | None = None
    """Folder of the report; none: FOLDER/report, for a file FILE-report."""
    metric: str | None = None
    """What a file's runs are compared by; none: each task's first metric."""
    lower_is_better: bool | None = None
    """Whether smaller values of a file's metric are better; none: as its name tells."""


@dataclass(frozen=True)
class ClaimsOptions:
    """Which claims to test, and how large the evidence is."""

    claims: tuple[str, ...] = ()
    """Names of claims, such as C1 C4; also without the flag; none: all of them."""
    scale: str = "small"
    """tiny (minutes, only to try the path), small (2 to 3 hours on two cores), base and decoders
    (nights), medium (one GPU), paper (the paper's models), or a YAML file of your own."""
    seeds: int | None = None
    """Training seeds of each configuration; none: the scale's. More of them narrow intervals, and a
    larger number goes on from a smaller one; decide on it before you look at a verdict."""
    data: str | None = None
    """Folder of the tasks in GLUE's layout, E2E and WebNLG, for those tasks that need it."""
    output: str | None = None
    """Folder of the evidence; the same command goes on there; none: runs/claims/SCALE."""
    plans: str | None = None
    """Folder of the claims' plans; none: those that come with the package."""
    workers: int | None = None
    """Runs at the same time, each with its share of the processor's cores; none: one for each core
    up to four, and one with an accelerator."""
    storage: str | None = None
    """URL of the database that shares out the runs; none: the environment variable
    HIDDENKEY_STORAGE, or a file in the output folder. PostgreSQL's password may be in ~/.pgpass."""
    page_only: bool = False
    """Run nothing: write the page from what is there."""
    retry_failed: bool = False
    """Run again what failed before."""
    dry_run: bool = False
    """List the runs and estimate the time from a few timed steps; nothing is written."""


@dataclass(frozen=True)
class ScoreOptions:
    """What to score."""

    task: str
    """e2e, webnlg, completion (your own answers), or a task of GLUE."""
    references: str
    """File of what is right: for e2e and webnlg .xml, .csv, .tsv, .jsonl, or text with a reference
    a line and instances separated by an empty line; for GLUE a dev.tsv in the official layout."""
    outputs: str
    """File of what a model gave, in the order of the references or with their identifiers: .csv,
    .tsv, .jsonl, or text with an output or label a line."""
    prediction_column: str | None = None
    """The column of the outputs to score; not needed where only one can be meant."""
    reference_column: tuple[str, ...] = ()
    """The column of the references, or several."""
    id_column: str | None = None
    """The column by which the rows of both files are matched."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class MethodsOptions:
    """How to list the methods."""

    json: bool = False
    """Print JSON, with the whole configuration of each method, instead of a table."""


@dataclass(frozen=True)
class DoctorOptions:
    """Which model and method to look at."""

    model: str
    """Local folder, name on the Hugging Face hub, or a bundled one such as 'minilm'."""
    method: str = "hiddenkey"
    """Name of a method, or a folder or file with a hiddenkey_config.json. A method on LoRA's update
    is shown with LoRA on keys and values."""
    rate: float | None = None
    """Dropout rate of all positions of the method, in [0, 1); none: the method's own."""
    rates: dict[str, float] = field(default_factory=dict)
    """Dropout rate by position, for example --rates.hidden 0.2; wins over --rate."""
    layers: tuple[int, ...] | None = None
    """Indices of the layers that drop, from 0; none: all."""
    kernel: Literal["auto", "reference", "fused"] = "auto"
    """Attention path: auto takes the fused one where it is possible."""
    head: Literal["classification", "regression", "causal", "seq2seq", "image"] = "classification"
    """Kind of model to build around the transformer."""
    trust_remote_code: bool = False
    """Run code that the model's folder brings along; it can do whatever you can, so read it."""
    meta: bool = False
    """Read the model's configuration only, no weights; works for any size."""
    json: bool = False
    """Print JSON instead of a table."""
