"""The learned classifier: features for labelled images that no published network knows, such as digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gebm_cli.core.data.dataset import to_float
from gebm_cli.core.device import seeded_construction

N_FEATURES = 64
CLASSIFIER_RECIPE = "conv32-conv64-pool-conv64-linear64, Adam 1e-3 linear decay, 800 steps of 64, seed 0, version 2"


class Classifier(nn.Module):
    """A small convolutional classifier; its features are the 64 units before the last ReLU, standardised.

    Each has mean 0 and variance 1 on the data it was trained on. Before the ReLU they are nearly Gaussian, as FID assumes;
    centred, they leave no constant in KID's kernel that would drown the differences.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, N_FEATURES),
        )
        self.logits = nn.Sequential(nn.ReLU(), nn.Linear(N_FEATURES, n_classes))
        self.mean = nn.Buffer(torch.zeros(N_FEATURES))
        self.std = nn.Buffer(torch.ones(N_FEATURES))
        self.held_out_accuracy = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, 64) of images (n, c, h, w) in [-1, 1]."""
        return (self.body(x) - self.mean) / self.std

    def classes(self, features: Tensor) -> Tensor:
        """Logits (n, n_classes) from the features (n, 64)."""
        return self.logits(features * self.std + self.mean)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Classifier:
    """Learn a classifier of images (n, c, h, w) uint8 by their labels (n,), and measure it on held-out ones.

    On a CPU the same data give the same network: everything random comes from seed 0.
    """
    steps, batch = 800, min(64, len(images))
    with seeded_construction(0, "classifier"):
        network = Classifier(images.shape[1], int(labels.max()) + 1).to(device)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    images, labels = images.to(device), labels.to(device)
    for step in range(steps):
        index = torch.randperm(len(images), generator=generator)[:batch].to(device)
        loss = nn.functional.cross_entropy(network.logits(network.body(to_float(images[index]))), labels[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        decay.step()
        on_step(step + 1, steps)
    network.eval().requires_grad_(False)
    units = torch.cat([network.body(to_float(b)) for b in images.split(1000)])
    network.mean.copy_(units.mean(0))
    network.std.copy_(units.std(0).clamp(min=1e-6))
    if len(held_out):
        guesses = torch.cat(
            [network.logits(network.body(to_float(b.to(device)))).argmax(1) for b in held_out.split(1000)]
        )
        network.held_out_accuracy.copy_((guesses.cpu() == held_out_labels).float().mean())
    return network
