"""A transformer of one's own, from outside transformers, in a plain loop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import hiddenkey
from tiny import collate, rows

WIDTH, HEADS = 32, 4


class Attention(nn.Module):
    """Self-attention that calls PyTorch's function, where its keys can fall."""

    def __init__(self) -> None:
        super().__init__()
        self.projections, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """Attend; ``[batch, tokens, width]``."""
        heads = self.projections(states).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.widen, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """Attend and feed forward; ``[batch, tokens, width]``."""
        states = states + self.attention(states)
        return states + self.narrow(F.gelu(self.widen(states)))


class Model(nn.Module):
    """Tokens in, class logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(100, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(Block() for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify; ``[batch, tokens]`` to ``[batch, classes]``."""
        states = self.embedding(tokens)
        for layer in self.layers:
            states = layer(states)
        return self.head(states.mean(1))


def main() -> list[dict[str, Any]]:
    """Train for one epoch and return each step's loss, and what fell."""
    model = Model()
    attachment = hiddenkey.attach(model, "hiddenkey-minus")
    print(attachment)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logs = []
    for batch in DataLoader(rows(), batch_size=8, collate_fn=collate):
        loss = F.cross_entropy(model(batch["input_ids"]), batch["labels"])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        shares = {f"dropped/{site}": share for site, share in attachment.shares().items()}
        logs.append({"loss": loss.item(), **shares})
        print(logs[-1])
    return logs


if __name__ == "__main__":
    main()
