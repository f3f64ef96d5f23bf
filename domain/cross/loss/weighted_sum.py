"""A loss made of losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from accelerator.errors import ConfigError, did_you_mean


class WeightedSum:
    """Σ_k w_k L_k(prediction, target): several losses as one.

    In a config each term is a component of its own::

        loss:
          name: weighted_sum
          terms: {pixels: {name: mae}, structure: {name: ssim}}
          weights: {pixels: 1.0, structure: 0.2}

    Args:
        terms: the losses L_k by name of your choice.
        weights: w_k for each of the names.

    Raises:
        ConfigError: no terms, or names that are in one mapping only.
    """

    def __init__(self, terms: Mapping[str, Callable[[Tensor, Tensor], Tensor]], weights: Mapping[str, float]) -> None:
        problems = [
            f"loss.weights.{name} has no term of that name{did_you_mean(name, terms)}"
            for name in weights
            if name not in terms
        ]
        problems += [
            f"loss.terms.{name} has no weight: add loss.weights.{name}" for name in terms if name not in weights
        ]
        if not terms:
            problems.append("loss.terms is empty: name at least one loss, e.g. terms: {error: {name: mse}}")
        if problems:
            raise ConfigError(problems)
        self.terms = dict(terms)
        self.weights = {name: float(weights[name]) for name in terms}
        self._pairs = [(self.weights[name], term) for name, term in self.terms.items()]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The weighted sum, 0-dimensional."""
        (weight, term), *others = self._pairs
        total = weight * term(prediction, target)
        for weight, term in others:
            total = total + weight * term(prediction, target)
        return total
