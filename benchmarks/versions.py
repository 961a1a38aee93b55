"""Time of a training step with two versions of this library, side by side in one run.

    python benchmarks/versions.py OLD_CHECKOUT [NEW_CHECKOUT] [--methods hiddenkey …] [--turns 60]

Each version runs in a process of its own, with the ``src`` folder of its checkout, and the two take
turns step by step: while one works the other waits. A step is forward pass, loss, backward pass and
AdamW of a random BERT with LoRA (6 layers, width 384, as MiniLM): batch 32 of
64 tokens, one thread.
``ratio`` is new to old, with Student's t 95 % interval of the mean logarithm over the turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("lora", "dropkey", "hiddencut-element", "hiddenkey-minus", "hiddenkey")
BATCH, TOKENS = 32, 64
WARM_UP = 5


class Version:
    """A process that makes steps with one checkout's library."""

    def __init__(self, checkout: Path, method: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src"),
                       "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # fmt: skip
        command = [sys.executable, __file__, "--serve", method]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.source = Path(self._answer())

    def step(self) -> float:
        """Make one step and return its seconds."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self.process.wait()}")
        return line.strip()


def serve(method: str) -> None:
    """Make a step for each line that comes in, and print its seconds."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    import hiddenkey

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    config = BertConfig(**sizes, intermediate_size=1536, num_labels=2)
    base = BertForSequenceClassification(config)
    model = get_peft_model(base, LoraConfig(target_modules=["key", "value"], r=8)).train()
    hiddenkey.attach(model, method)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    lengths = torch.randint(TOKENS // 2, TOKENS + 1, (BATCH,))
    inputs = {
        "input_ids": torch.randint(5, 1000, (BATCH, TOKENS)),
        "attention_mask": (torch.arange(TOKENS) < lengths[:, None]).long(),
        "labels": torch.randint(2, (BATCH,)),
    }
    print(hiddenkey.__file__, flush=True)  # which library it is
    for _ in sys.stdin:
        started = time.perf_counter()
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(time.perf_counter() - started, flush=True)


def measure(old: Path, new: Path, method: str, turns: int) -> tuple[list[float], list[float]]:
    """Seconds of each turn's step, of both versions."""
    versions = [Version(old, method), Version(new, method)]
    seconds: list[list[float]] = [[], []]
    for turn in range(WARM_UP + turns):
        order = (0, 1) if turn % 2 else (1, 0)
        for index in order:
            duration = versions[index].step()
            if turn >= WARM_UP:
                seconds[index].append(duration)
    for version in versions:
        version.close()
    return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", nargs="?", type=Path)
    parser.add_argument("new", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve)
    if given.old is None:
        parser.error("give the checkout to compare with")
    from harness import compare, markdown
    from hiddenkey.lab.evidence.inference import Ratio

    print(markdown(["method", "new, ms", "median ratio", "mean ratio", "95 % interval"], []))
    for method in given.methods:
        old, new = measure(given.old, given.new, method, given.turns)
        ratio, timing = Ratio.of(new, old), compare(new, old)
        low, high = ratio.interval()
        row = [f"{timing.median_ms:.0f}", f"{timing.ratio:.3f}", f"{ratio.value:.3f}"]
        print(f"| {method} | {' | '.join(row)} | {low:.3f} to {high:.3f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
