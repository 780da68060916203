"""Optimizers: AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.design import TrainDesign

BETAS = (0.9, 0.95)
MOMENTUM = 0.95


class Optimizers:
    """The optimizers of a model as one, with a state that is a flat dictionary of tensors by parameter name."""

    def __init__(self, model: nn.Module, design: TrainDesign):
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        matrices = [p for p, name in self.names.items() if p.dim() == 2 and ".layers." in name]
        others = [p for p in self.names if not any(p is m for m in matrices)]
        self.parts: list[torch.optim.Optimizer]
        if design.optimizer == "muon":
            self.parts = [
                torch.optim.Muon(
                    matrices,
                    lr=design.lr,
                    weight_decay=design.weight_decay,
                    momentum=MOMENTUM,
                    adjust_lr_fn="match_rms_adamw",
                ),
                torch.optim.AdamW(others, lr=design.lr, betas=BETAS, weight_decay=0.0, fused=True),
            ]
        else:
            decayed = [p for p in self.names if p.dim() == 2]
            plain = [p for p in self.names if p.dim() != 2]
            groups = [
                {"params": decayed, "weight_decay": design.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ]
            self.parts = [torch.optim.AdamW(groups, lr=design.lr, betas=BETAS, fused=True)]

    def step(self, lr: float) -> None:
        """One update at this rate; gradients are dropped afterwards."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, named `<parameter>|<entry>`, in a fixed order."""
        names: dict[Tensor, str] = dict(self.names.items())
        found = {
            f"{names[parameter]}|{entry}": tensor
            for part in self.parts
            for parameter, entries in part.state.items()
            for entry, tensor in entries.items()
        }
        return dict(sorted(found.items()))

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state: tensors are copied, never adopted."""
        by_name = {name: parameter for parameter, name in self.names.items()}
        owners = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key, tensor in state.items():
            name, entry = key.split("|")
            parameter = by_name[name]
            device = "cpu" if entry == "step" and parameter.device.type == "cpu" else parameter.device
            owners[parameter].state[parameter][entry] = tensor.detach().clone().to(device)
