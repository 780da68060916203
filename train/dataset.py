"""An arm's training order as a PyTorch dataset."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..insertion.overlay import Overlay


class SlotDataset(Dataset[Tensor]):
    """Item k is what slot k reads: ids [L + 1], int64. Read it in order: the order is part of the experiment."""

    def __init__(self, overlay: Overlay, slots: int):
        self.overlay, self.slots = overlay, slots

    def __repr__(self) -> str:
        length = self.overlay.length
        return f"SlotDataset({self.slots} slots of {length + 1} ids: {length} inputs, {length} labels)"

    def __len__(self) -> int:
        return self.slots

    def __getitem__(self, slot: int) -> Tensor:
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        return torch.from_numpy(self.overlay.sequences(np.array([slot]))[0].astype(np.int64))
