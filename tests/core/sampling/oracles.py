"""Every sampler once more, chain by chain in plain numpy, from its definition; the noise is drawn in the same order.

`U` and `g` take one chain (d,). Each returns the positions after n steps.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def _normal(z: np.ndarray, generator: torch.Generator) -> np.ndarray:
    return torch.randn(z.shape, generator=generator, dtype=torch.float64).numpy()


def _uniform(n: int, generator: torch.Generator) -> np.ndarray:
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()


def ula(z, U, g, eps, n_steps, generator):
    z = z.copy()
    for _ in range(n_steps):
        xi = _normal(z, generator)
        for i in range(len(z)):
            z[i] = z[i] - eps * g(z[i]) + math.sqrt(2 * eps) * xi[i]
    return z


def mala(z, U, g, eps, n_steps, generator):
    def log_q(to, start):
        """log N(to; start - eps g(start), 2 eps I), up to a constant."""
        return -np.sum((to - (start - eps * g(start))) ** 2) / (2 * 2 * eps)

    z = z.copy()
    for _ in range(n_steps):
        xi, u = _normal(z, generator), _uniform(len(z), generator)
        for i in range(len(z)):
            new = z[i] - eps * g(z[i]) + math.sqrt(2 * eps) * xi[i]
            target = math.exp(U(z[i]) - U(new))
            if u[i] < target * math.exp(log_q(z[i], new) - log_q(new, z[i])):
                z[i] = new
    return z


def hmc(z, U, g, h, n_steps, generator, n_leapfrog=5):
    z = z.copy()
    for _ in range(n_steps):
        momentum, u = _normal(z, generator), _uniform(len(z), generator)
        for i in range(len(z)):
            x, p = z[i].copy(), momentum[i] - h / 2 * g(z[i])
            for step in range(n_leapfrog):
                x = x + h * p
                p = p - (h if step < n_leapfrog - 1 else h / 2) * g(x)
            before = U(z[i]) + momentum[i] @ momentum[i] / 2
            if u[i] < math.exp(before - U(x) - p @ p / 2):
                z[i] = x
    return z


def kla(z, U, g, h, n_steps, generator, letters, friction=2.0):
    """The splitting spelt by `letters`, e.g. BAOAB."""
    z, v, c = z.copy(), _normal(z, generator), math.exp(-friction * h)
    for _ in range(n_steps):
        xi = _normal(z, generator)
        for i in range(len(z)):
            for letter in letters:
                if letter == "A":
                    z[i] = z[i] + h / 2 * v[i]
                elif letter == "B":
                    v[i] = v[i] - h / 2 * g(z[i])
                else:
                    v[i] = c * v[i] + math.sqrt(1 - c * c) * xi[i]
    return z
