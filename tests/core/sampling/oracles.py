"""Every sampler once more, chain by chain in plain numpy, from its definition; the noise is drawn in the same order.

`m` is a model of one chain (d,): m.E(z), m.slope(z), m.beta. Each returns the positions after n steps; U has no constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import solve_discrete_lyapunov


@dataclass(frozen=True)
class SkewedModel:
    """`targets.Skewed`, once more."""

    beta: float = 1.0

    def E(self, z):  # noqa: N802
        return np.sum(np.exp(2 * z) / 2 - z)

    def slope(self, z):
        return np.exp(2 * z) - 1

    def U(self, z):  # noqa: N802
        return z @ z / 2 + self.beta * self.E(z)

    def g(self, z):
        return z + self.beta * self.slope(z)

    def w(self, z):
        return math.exp(-self.beta * self.E(z))


def _normal(z: np.ndarray, generator: torch.Generator) -> np.ndarray:
    return torch.randn(z.shape, generator=generator, dtype=torch.float64).numpy()


def _uniform(n: int, generator: torch.Generator) -> np.ndarray:
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()


def ula(z, m, eps, n_steps, generator):
    z = z.copy()
    for _ in range(n_steps):
        xi = _normal(z, generator)
        for i in range(len(z)):
            z[i] = z[i] - eps * m.g(z[i]) + math.sqrt(2 * eps) * xi[i]
    return z


def lm(z, m, eps, n_steps, generator):
    z, s = z.copy(), math.sqrt(eps / 2)
    old = _normal(z, generator)
    for i in range(len(z)):
        old[i] = s * m.g(z[i]) + math.sqrt(1 - s * s) * old[i]
    for _ in range(n_steps):
        xi = _normal(z, generator)
        for i in range(len(z)):
            z[i] = z[i] - eps * m.g(z[i]) + s * (old[i] + xi[i])
        old = xi
    return z


def _mala_move(z, m, eps, xi, u):
    def log_q(to, start):
        """log N(to; start - eps g(start), 2 eps I), up to a constant."""
        return -np.sum((to - (start - eps * m.g(start))) ** 2) / (2 * 2 * eps)

    new = z - eps * m.g(z) + math.sqrt(2 * eps) * xi
    ratio = math.exp(m.U(z) - m.U(new)) * math.exp(log_q(z, new) - log_q(new, z))
    return new if u < ratio else z


def mala(z, m, eps, n_steps, generator):
    z = z.copy()
    for _ in range(n_steps):
        xi, u = _normal(z, generator), _uniform(len(z), generator)
        for i in range(len(z)):
            z[i] = _mala_move(z[i], m, eps, xi[i], u[i])
    return z


def _leapfrog(x, p, m, h, n):
    p = p - h / 2 * m.g(x)
    for step in range(n):
        x = x + h * p
        p = p - (h if step < n - 1 else h / 2) * m.g(x)
    return x, p


def hmc(z, m, h, n_steps, generator, jitter=0.0, n_leapfrog=5):
    z = z.copy()
    for _ in range(n_steps):
        momentum = _normal(z, generator)
        spread = _uniform(len(z), generator) if jitter else np.full(len(z), 0.5)
        u = _uniform(len(z), generator)
        for i in range(len(z)):
            size = h * (1 - jitter) + 2 * h * jitter * spread[i]
            x, p = _leapfrog(z[i], momentum[i], m, size, n_leapfrog)
            before = m.U(z[i]) + momentum[i] @ momentum[i] / 2
            if u[i] < math.exp(before - m.U(x) - p @ p / 2):
                z[i] = x
    return z


def kla(z, m, h, n_steps, generator, letters, friction=2.0):
    """The splitting spelt by `letters`, e.g. baoab."""
    z, v = z.copy(), _normal(z, generator)
    t = {letter: h / letters.count(letter) for letter in "bao"}
    c = math.exp(-friction * t["o"])
    for _ in range(n_steps):
        xi = iter([_normal(z, generator) for _ in range(letters.count("o"))])
        for letter in letters:
            if letter == "a":
                z = z + t["a"] * v
            elif letter == "b":
                v = v - t["b"] * np.stack([m.g(x) for x in z])
            else:
                v = c * v + math.sqrt(1 - c * c) * next(xi)
    return z


def ghmc(z, m, h, n_steps, generator, friction=2.0):
    z, v = z.copy(), _normal(z, generator)
    c = math.exp(-friction * h / 2)
    s = math.sqrt(1 - c * c)
    for _ in range(n_steps):
        first, u, last = _normal(z, generator), _uniform(len(z), generator), _normal(z, generator)
        for i in range(len(z)):
            v[i] = c * v[i] + s * first[i]
            x, p = _leapfrog(z[i], v[i], m, h, 1)
            accept = u[i] < math.exp(m.U(z[i]) + v[i] @ v[i] / 2 - m.U(x) - p @ p / 2)
            z[i], v[i] = (x, p) if accept else (z[i], -v[i])
            v[i] = c * v[i] + s * last[i]
    return z


def rw(z, m, eps, n_steps, generator):
    z = z.copy()
    for _ in range(n_steps):
        xi, u = _normal(z, generator), _uniform(len(z), generator)
        for i in range(len(z)):
            new = z[i] + math.sqrt(2 * eps) * xi[i]
            if u[i] < math.exp(m.U(z[i]) - m.U(new)):
                z[i] = new
    return z


def ihm(z, m, _step, n_steps, generator):
    z = z.copy()
    for _ in range(n_steps):
        new, u = _normal(z, generator), _uniform(len(z), generator)
        for i in range(len(z)):
            if u[i] < m.w(new[i]) / m.w(z[i]):
                z[i] = new[i]
    return z


def _isir_move(z, m, generator, n_proposals):
    """Walking from the last proposal back, proposal j is kept unless a later one was: the reservoir read backwards."""
    n = len(z)
    draws = [(_normal(z, generator), _uniform(n, generator)) for _ in range(n_proposals - 1)]
    chosen = z.copy()
    for i in range(n):
        points = [z[i], *[d[0][i] for d in draws]]
        weights = np.array([m.w(p) for p in points])
        for j in range(n_proposals - 1, 0, -1):
            if draws[j - 1][1][i] < weights[j] / weights[: j + 1].sum():
                chosen[i] = points[j]
                break
    return chosen


def isir(z, m, _step, n_steps, generator, n_proposals=4):
    for _ in range(n_steps):
        z = _isir_move(z, m, generator, n_proposals)
    return z


def ex2(z, m, eps, n_steps, generator, n_proposals=4, n_local=2):
    for _ in range(n_steps):
        z = mala(_isir_move(z, m, generator, n_proposals), m, eps, n_local, generator)
    return z


def pt(z, m, eps, n_steps, generator, n_rungs=3):
    """Rung 0 is the prior; rung k has beta 2^(k - K) of the target's."""
    n = len(z)
    models = [replace(m, beta=m.beta * 2.0 ** (k - n_rungs)) if k else replace(m, beta=0.0) for k in range(n_rungs + 1)]
    rungs = np.stack([z] * (n_rungs + 1))
    for _ in range(n_steps):
        xi = _normal(rungs[1:].reshape(n * n_rungs, -1), generator).reshape(rungs[1:].shape)
        u = _uniform(n * n_rungs, generator).reshape(n_rungs, n)
        for k in range(1, n_rungs + 1):
            for i in range(n):
                rungs[k, i] = _mala_move(rungs[k, i], models[k], eps, xi[k - 1, i], u[k - 1, i])
        rungs[0] = _normal(z, generator)
        for k in range(n_rungs):
            low, high, u = models[k], models[k + 1], _uniform(n, generator)
            for i in range(n):
                a, b = rungs[k, i].copy(), rungs[k + 1, i].copy()
                if u[i] < math.exp(low.U(a) + high.U(b) - low.U(b) - high.U(a)):
                    rungs[k, i], rungs[k + 1, i] = b, a
    return rungs[-1]


def run(name, z, m, step, n_steps, generator):
    """The oracle of the battery's name, at the options of `targets.build`."""
    kind, _, variant = name.partition("-")
    if kind == "kla":
        return kla(z, m, step, n_steps, generator, {"gebm": "aboba"}.get(variant, variant))
    if variant == "jitter":
        return hmc(z, m, step, n_steps, generator, jitter=0.2)
    return globals()[kind](z, m, step, n_steps, generator)


def splitting_map(letters: str, h: float, k: float, friction: float) -> tuple[np.ndarray, np.ndarray]:
    """One step on U = k z^2 / 2 is x' = M x + N(0, S) for x = (z, v): M and S."""
    m, s = np.eye(2), np.zeros((2, 2))
    t = {letter: h / letters.count(letter) for letter in "bao"}
    c = math.exp(-friction * t["o"])
    moves = {"a": np.array([[1, t["a"]], [0, 1]]), "b": np.array([[1, 0], [-t["b"] * k, 1]]), "o": np.diag([1, c])}
    for letter in letters:
        m, s = moves[letter] @ m, moves[letter] @ s @ moves[letter].T
        s = s + (letter == "o") * np.diag([0, 1 - c * c])
    return m, s


def splitting_law(letters: str, h: float, k: float, friction: float) -> np.ndarray:
    """The stationary covariance of (z, v)."""
    return solve_discrete_lyapunov(*splitting_map(letters, h, k, friction))
