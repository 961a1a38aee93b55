"""Runs training scripts of other people under ``hiddenkey run``, and proves the noise active.

    python maintenance/other_scripts.py --checkout FOLDER [--only NAME ...]

FOLDER holds ``transformers``, a checkout of huggingface/transformers, and ``Extractive-QA``, one of
rbedyakin/Extractive-QA, a Lightning project. TRL's script is the installed one. No script is
changed: local models and data are given by the scripts' own flags. The package evaluate, which one
of them imports, is installed into runs/other_scripts/packages.

Each script runs in one process and in two, which accelerate launches, or Lightning itself. Prints a
table, and writes it with the records into runs/other_scripts. The exit status is 1 if a site's
observed drop rate is not near the configured one, if the consistency loss is 0, or if a script
fails.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from project import THIS

RATE: Final = 0.1
TOLERANCE: Final = 0.05
SECONDS: Final = 600
_BIN: Final = Path(sys.executable).parent
_ACCELERATE: Final = (
    str(_BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--main_process_port", "0",
)  # fmt: skip
_METRIC: Final = """\
import datasets
import evaluate


class Accuracy(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int32")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        right = sum(one == other for one, other in zip(predictions, references))
        return {"accuracy": right / len(predictions)}
"""


@dataclass(frozen=True)
class Case:
    """A script with its flags.

    Attributes:
        name: what the table calls it.
        command: the words.
        processes: that train.
        folder: where it runs.
    """

    name: str
    command: Sequence[str]
    processes: int
    folder: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scripts, and say in which of them the noise was active."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    given = parser.parse_args(arguments)
    runs = THIS.root / "runs" / "other_scripts"
    shutil.rmtree(runs / "work", ignore_errors=True)
    (runs / "work").mkdir(parents=True)
    install(runs / "packages")
    rows = []
    for case in cases(given.checkout.resolve(), runs / "work"):
        if not given.only or any(name in case.name for name in given.only):
            rows.append(row(case, run(case, runs)))
            print(" | ".join(rows[-1]), flush=True)
    shown = table(rows)
    (runs / "other_scripts.md").write_text(shown + "\n", encoding="utf-8")
    print(shown)
    return 0 if rows and all(each[-1] == "yes" for each in rows) else 1


def install(packages: Path) -> None:
    """Install what transformers' script imports and is not there, beside the environment."""
    sys.path.append(str(packages))
    if importlib.util.find_spec("evaluate") is None:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
        subprocess.run([*pip, "--target", str(packages), "evaluate"], check=True)


def cases(checkout: Path, work: Path) -> Iterator[Case]:
    """Yield the scripts, for one process and for two; the data are written first."""
    python = (sys.executable, "-W", "ignore")
    scripts = checkout / "transformers" / "examples" / "pytorch" / "text-classification"
    classify = [str(scripts / "run_classification.py"), *classification(work)]
    yield Case("transformers run_classification.py", [*python, *classify], 1, work)
    yield Case("transformers run_classification.py", [*_ACCELERATE, *classify], 2, work)
    flags = fine_tuning(work)
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    script = Path(spec.origin).parent / "scripts" / "sft.py"
    yield Case("trl sft", [str(_BIN / "trl"), "sft", *flags], 1, work)
    yield Case("trl sft", [*_ACCELERATE, str(script), *flags], 2, work)
    project = checkout / "Extractive-QA"
    answer = [*python, "main.py", "--config", "config/t5.yaml", *answering(work)]
    yield Case("Lightning Extractive-QA", answer, 1, project)
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    yield Case("Lightning Extractive-QA", [*answer, *two], 2, project)


def classification(work: Path) -> list[str]:
    """Write labelled sentences and a metric; return the flags for them and the bundled encoder."""
    from hiddenkey.lab.assets import BUNDLED_MODELS, locate

    words = {
        "1": ["fine", "lovely", "bright", "warm", "clear"],
        "0": ["dull", "bleak", "grey", "cold", "murky"],
    }
    fill = ["the", "film", "book", "meal", "walk", "talk", "was", "felt", "seemed", "so", "very"]
    draws = random.Random(0)
    for name, count in (("train", 96), ("dev", 32)):
        with (work / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "label"])
            for number in range(count):
                label = str(number % 2)
                text = draws.choices(fill, k=6) + draws.choices(words[label], k=2)
                writer.writerow([" ".join(draws.sample(text, k=8)), label])
    (work / "metric").mkdir()
    (work / "metric" / "accuracy.py").write_text(_METRIC, encoding="utf-8")
    return [
        "--model_name_or_path", str(locate(BUNDLED_MODELS["minilm"])),
        "--train_file", "train.csv", "--validation_file", "dev.csv",
        "--metric_name", "metric/accuracy.py", "--do_train", "--do_eval",
        "--max_seq_length", "24", "--per_device_train_batch_size", "8", "--max_steps", "6",
        "--logging_steps", "2", "--output_dir", "classification", "--report_to", "none",
        "--use_cpu", "--save_strategy", "no",
    ]  # fmt: skip


def fine_tuning(work: Path) -> list[str]:
    """Write a tiny language model and texts; return TRL's flags for them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, intermediate_size=64, vocab_size=100, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(work / "language_model")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, 100)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    tokenizer.save_pretrained(work / "language_model")
    draws = random.Random(0)
    texts = [" ".join(f"w{draws.randint(3, 99)}" for _ in range(12)) for _ in range(32)]
    write_lines(work / "texts" / "train.jsonl", [{"text": text} for text in texts])
    return [
        "--model_name_or_path", "language_model", "--dataset_name", "texts", "--max_steps", "6",
        "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--use_cpu",
        "--bf16", "False", "--report_to", "none", "--output_dir", "fine_tuning", "--use_peft",
        "--lora_target_modules", "q_proj", "v_proj", "--logging_steps", "2",
        "--save_strategy", "no",
    ]  # fmt: skip


def answering(work: Path) -> list[str]:
    """Write a tiny T5 and questions; return the flags of the Lightning project for them."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = [f"w{number}" for number in range(60)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -2.0) for word in [*words, "Context:", "Question:"]]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(work / "t5")
    config = T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        vocab_size=len(vocabulary),
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(work / "t5")
    draws = random.Random(0)
    rows = []
    for _ in range(24):
        context = draws.choices(words, k=8)
        question, answer = " ".join(context[:2]), context[2]
        texts = {"question": question, "answer_context": " ".join(context), "answer": answer}
        rows.append(texts)
    write_lines(work / "questions" / "train.jsonl", rows)
    return [
        "--model.init_args.pretrained_model_name", str(work / "t5"),
        "--data.init_args.dataset_path", str(work / "questions"),
        "--data.init_args.num_workers", "0", "--trainer.accelerator", "cpu",
        "--trainer.devices", "1", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1",
        "--trainer.default_root_dir", str(work / "answering"),
    ]  # fmt: skip


def write_lines(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows as JSON lines; the folder is made."""
    path.parent.mkdir()
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def run(case: Case, runs: Path) -> dict[str, Any] | None:
    """Run a script with HiddenKey; return its record, or ``None`` if it failed or left none."""
    name = f"{case.name}-{case.processes}".replace(" ", "_")
    record = runs / "records" / name
    flags = ("--method", "hiddenkey", "--rate", str(RATE), "--record", str(record))
    paths = (str(runs / "packages"), str(THIS.root / "src"), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with (runs / f"{name}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "hiddenkey", "run", *flags, "--", *case.command],
            cwd=case.folder, env=environment, stdout=log, stderr=log, timeout=SECONDS, check=False,
        )  # fmt: skip
    files = [record / f"{part}.json" for part in ("attached", "finished")]
    if done.returncode or not all(file.exists() for file in files):
        print(f"status {done.returncode}, see {runs / f'{name}.log'}", file=sys.stderr)
        return None
    attached, finished = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return {**attached, **finished}


def is_active(record: dict[str, Any], case: Case) -> bool:
    """Whether every site dropped about as much as configured, and the loss was trained on."""
    rates = record["sites"].values()
    return (
        record["processes"] == case.processes
        and len(rates) > 0
        and all(rate is not None and abs(rate - RATE) < TOLERANCE for rate in rates)
        and (record["consistency_loss"] or 0) > 0
    )


def row(case: Case, record: dict[str, Any] | None) -> list[str]:
    """Return a script's line of the table."""
    if record is None:
        return [case.name, str(case.processes), *["-"] * 5, "no: it failed"]
    rates = [rate for rate in record["sites"].values() if rate is not None]
    return [
        case.name,
        str(record["processes"]),
        record["trainer"],
        str(record["steps"]),
        str(len(record["sites"])),
        f"{min(rates, default=0):.3f} to {max(rates, default=0):.3f}",
        f"{record['task_loss']:.3f} + {record['consistency_loss'] or 0:.5f}",
        "yes" if is_active(record, case) else "no",
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as Markdown."""
    columns = ("script", "processes", "trainer", "steps", "sites", "observed rates",
               "task + consistency loss", "active")  # fmt: skip
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
