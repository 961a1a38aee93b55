"""An Accelerate loop: attach before ``prepare``, train on ``output.loss``.

``accelerate launch --num_processes 2 examples/accelerate_loop.py`` runs it on two processes.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import hiddenkey
from tiny import classifier, collate, rows


def main() -> list[dict[str, Any]]:
    """Train for one epoch and return what each step's loss consisted of, and what fell."""
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = classifier()
    attachment = hiddenkey.attach(model, "hiddenkey")
    accelerator.print(attachment)
    model, optimiser, batches = accelerator.prepare(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        DataLoader(rows(), batch_size=4, shuffle=True, collate_fn=collate),
    )
    model.train()
    logs = []
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
        parts = {f"{name}_loss": value for name, value in attachment.losses.items()}
        shares = {f"dropped/{site}": share for site, share in attachment.shares().items()}
        logs.append({"loss": loss.item(), **parts, **shares})
        accelerator.print(logs[-1])
    return logs


if __name__ == "__main__":
    main()
