"""Lightning with a callback: it attaches when ``fit`` begins, logs, and detaches at the end."""

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hiddenkey.integrations.lightning import HiddenKeyCallback
from tiny import classifier, collate, rows


class Classifier(lightning.LightningModule):
    """A classifier that knows nothing of the method."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier()
        self.logs: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the loss."""
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep what was logged."""
        self.logs.append({name: float(v) for name, v in self.trainer.callback_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3)


def main() -> list[dict[str, Any]]:
    """Train for one epoch and return what was logged in each step."""
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=[HiddenKeyCallback("hiddenkey", rate=0.1)],
    )
    trainer.fit(module, DataLoader(rows(), batch_size=8, collate_fn=collate))
    return module.logs


if __name__ == "__main__":
    main()
