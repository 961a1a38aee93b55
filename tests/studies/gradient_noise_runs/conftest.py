"""The study is run from its folder; its tests train the lab's tiny model."""

from lab.conftest import tiny_model

__all__ = ["tiny_model"]
