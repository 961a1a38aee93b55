"""A loop of one's own with a loss of one's own: focal loss, and a rate that warms up."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import hiddenkey
from tiny import classifier, collate, rows


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of (1 − p)² · cross-entropy (arXiv 1708.02002)."""
    surprise = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-surprise).exp()) ** 2 * surprise).mean()


def main() -> list[dict[str, Any]]:
    """Train for one epoch and return what each step's loss consisted of, and what fell."""
    model = classifier().train()
    attachment = hiddenkey.attach(model, "hiddenkey")
    print(attachment)
    schedule = hiddenkey.RateSchedule(warmup=2)
    batches = DataLoader(rows(), batch_size=8, shuffle=True, collate_fn=collate)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logs = []
    for step, batch in enumerate(batches):
        attachment.set_rates(schedule.rates(attachment.sites, step, len(batches)))
        labels = batch.pop("labels")
        # with the model's own loss neither of these two lines: loss = model(**batch).loss
        with attachment.own_loss(labels) as own:
            loss = own.total(focal_loss(model(**batch).logits, labels))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        parts = {f"{name}_loss": value for name, value in attachment.losses.items()}
        shares = {f"dropped/{site}": share for site, share in attachment.shares().items()}
        logs.append({"loss": loss.item(), **parts, **shares})
        print(logs[-1])
    return logs


if __name__ == "__main__":
    main()
