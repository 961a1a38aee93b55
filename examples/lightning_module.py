"""Lightning (``pip install lightning``): attach in the module, log in the training step."""

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import hiddenkey
from tiny import classifier, collate, rows


class Classifier(lightning.LightningModule):
    """A classifier with an attached method."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier()
        self.attachment = hiddenkey.attach(self.model, "hiddenkey")
        self.logs: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the loss; its parts and the shares that fell go to the logger."""
        loss = self.model(**batch).loss
        parts = {f"{name}_loss": value for name, value in self.attachment.losses.items()}
        shares = {f"dropped/{site}": share for site, share in self.attachment.shares().items()}
        self.log_dict({**parts, **shares})
        self.logs.append({"loss": loss.item(), **parts, **shares})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3)


def main() -> list[dict[str, Any]]:
    """Train for one epoch and return what each step's loss consisted of, and what fell."""
    module = Classifier()
    print(module.attachment)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    module.train()  # from_pretrained gives a model in evaluation mode, and Lightning keeps it so
    trainer.fit(module, DataLoader(rows(), batch_size=8, collate_fn=collate))
    return module.logs


if __name__ == "__main__":
    main()
