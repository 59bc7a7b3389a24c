"""The ops in a plain PyTorch loop: two sensors of the same places learn to agree, patch by patch.

    python examples/ops_in_a_training_script.py

Needs `pip install .` alone: torch, numpy, einops. On a GPU the same lines run the Triton kernels.
"""

import torch
from torch import Tensor, nn

from fusion.kernels import PatchInfoNCE, RelativeAttention, euclidean_buckets
from fusion.kernels.backends import chosen

DIM, GRID, TILES = 32, (6, 6), 64


class Encoder(nn.Module):
    """Patches of one sensor (B, P, bands) to tokens (B, P, D); positions are relative, so no map edge is special."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.lift = nn.Linear(bands, DIM)
        self.attention = RelativeAttention(DIM, heads=4, bucket=euclidean_buckets(*GRID, extra=0))

    def forward(self, patches: Tensor) -> Tensor:
        tokens = self.lift(patches)
        return tokens + self.attention(tokens)


def make_sensors(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two sensors (B, P, bands) that see the same four hidden quantities, and which tiles the second one observed."""
    generator = torch.Generator().manual_seed(seed)
    patches = GRID[0] * GRID[1]
    ground = torch.randn(TILES, patches, 4, generator=generator)
    optical = ground @ torch.randn(4, 10, generator=generator)
    radar = ground @ torch.randn(4, 2, generator=generator)
    noise = 0.1 * torch.randn(TILES, patches, 2, generator=generator)
    return optical, radar + noise, torch.rand(TILES, generator=generator) > 0.2


def main(steps: int = 100) -> list[float]:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    optical, radar, seen = (tensor.to(device) for tensor in make_sensors())
    encoders = nn.ModuleList([Encoder(10), Encoder(2)]).to(device)
    loss_of = PatchInfoNCE(temperature=0.1)
    valid = torch.stack([torch.ones_like(seen), seen])  # (M, B): a tile without radar is neither positive nor negative
    optimizer = torch.optim.AdamW(encoders.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        tokens = torch.stack([encoders[0](optical), encoders[1](radar)])  # (M, B, P, D)
        loss = loss_of(tokens, valid=valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step:3}  loss {losses[-1]:.3f}")
    print(f"step {steps - 1:3}  loss {losses[-1]:.3f}")
    print("who runs what:", chosen())
    return losses


if __name__ == "__main__":
    main()
