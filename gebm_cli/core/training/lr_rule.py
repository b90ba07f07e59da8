"""The learning-rate rule of Binkowski et al. (2018, section 4.1): halve the rate when the base has stopped getting better.

Every so often the base is compared with what it was `compare` comparisons earlier, by the relative three-sample test
(Bounliphone et al. 2016) of KID between either and fixed data features: p is the chance of so large a gain, were there none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gebm_cli.core.kernels import Kernel, Polynomial
from gebm_cli.core.mmd import Sums, difference_of, sums_against
from gebm_cli.core.models.prior import NormalPrior


@dataclass
class RateRule:
    """The rule and its history, which is part of a checkpoint.

    A gain with p <= `p_value` is a success: the new model joins the memory and the oldest leaves it. Otherwise it is a failure;
    after `patience` failures in a row the rate is multiplied by `factor`, and the newest `keep` models stay in memory. A variance
    that is not positive is undecided and counts as neither. Of a past model its sums are kept, not its features.
    """

    features: Callable[[Tensor], Tensor]
    reference: Tensor
    generator: torch.Generator
    every: int = 2000
    compare: int = 10
    n: int = 2048
    p_value: float = 0.1
    patience: int = 3
    factor: float = 0.5
    floor: float = 1e-6
    kernel: Kernel = field(default_factory=Polynomial)
    memory: list[Sums] = field(default_factory=list)
    failures: int = 0
    multiplier: float = 1.0
    last_p: float = math.nan
    keep: int = 3

    def rate(self, rate: float) -> float:
        """A learning rate after all decays so far, not below the floor (or itself, where that is lower)."""
        return max(rate * self.multiplier, min(rate, self.floor))

    @torch.no_grad()
    def update(self, base: nn.Module, prior: NormalPrior, step: int) -> None:
        """Draw samples, compare, and decay if it is time."""
        self.observe(self._sums(base, prior))

    def _sums(self, base: nn.Module, prior: NormalPrior) -> Sums:
        training = base.training
        base.eval()
        batches = [base(prior.sample(min(500, self.n - i), self.generator)) for i in range(0, self.n, 500)]
        base.train(training)
        return sums_against(self.reference, torch.cat([self.features(b) for b in batches]), self.kernel)

    def observe(self, now: Sums) -> None:
        """One comparison of the newest model's sums with the oldest in memory."""
        if len(self.memory) < self.compare:
            self.memory.append(now)
            return
        self.last_p = difference_of(now, self.memory[0]).p_less
        if math.isnan(self.last_p):
            return
        if self.last_p <= self.p_value:
            self.failures = 0
            self.memory = [*self.memory[1:], now]
            return
        self.failures += 1
        if self.failures == self.patience:
            self.multiplier *= self.factor
            self.failures = 0
            self.memory = self.memory[-self.keep :]

    def metrics(self) -> dict[str, float]:
        """The factor of all decays so far, and the p-value of the last comparison where there was one."""
        p = {} if math.isnan(self.last_p) else {"rule_p_value": self.last_p}
        return {"rule_multiplier": self.multiplier, **p}

    def state_dict(self) -> dict[str, Any]:
        return {
            "memory": [s.as_dict() for s in self.memory],
            "failures": self.failures,
            "multiplier": self.multiplier,
            "last_p": self.last_p,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory = [Sums(**s) for s in state["memory"]]
        self.failures, self.multiplier, self.last_p = state["failures"], state["multiplier"], state["last_p"]
        self.generator.set_state(state["generator"].cpu())
