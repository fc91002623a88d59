"""Samplers compared where the answer is known: a mixture of Gaussians, whose D(x, sigma) is a formula.

    python benchmarks/samplers.py    # a minute on a laptop

The error is the RMSE, over dimensions and draws, against the same noise followed through 1,000 Heun steps
(2,000 for sigma_max 700); the data have unit variance. All samplers of a row call the denoiser equally often.
With guidance the condition keeps half of the mixture's components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.diffusion import edm

CALLS = (8, 12, 16, 20, 25, 30, 50, 100)
GUIDANCE = 3.5


@dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians N(means [K, D], width^2 I)."""

    means: Tensor
    width: float = 0.2

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean of the data given x [B, D] = data + sigma [B] * noise."""
        variance = (self.width**2 + sigma**2)[:, None]
        apart = (x[:, None] - self.means).square().sum(-1)  # [B, K]
        weights = (-apart / (2 * variance)).softmax(-1)
        return (self.width**2 * x + sigma[:, None] ** 2 * (weights @ self.means)) / variance


def main() -> None:
    """Print a table of errors for each noise range, without and with guidance."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 16, dtype=torch.float64, generator=generator) * (1 - 0.2**2) ** 0.5
    noise = torch.randn(256, 16, dtype=torch.float64, generator=generator)
    whole, half = Mixture(means), Mixture(means[:4])

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        unconditional = whole.denoise(x, sigma)
        return unconditional + GUIDANCE * (half.denoise(x, sigma) - unconditional)

    for title, denoise in (("no guidance", whole.denoise), (f"guidance {GUIDANCE}", guided)):
        for sigma_max in (700.0, 80.0):
            print(
                f"\n{title}, sigma_max {sigma_max:g}\n\n| calls | euler | heun | dpm_solver_2m |\n"
                "|---|---|---|---|"
            )
            many = edm.karras_sigmas(2000 if sigma_max > 80 else 1000, sigma_max=sigma_max)
            exact = edm.heun(denoise, noise, many)
            for calls in CALLS:
                grid = edm.karras_sigmas(calls, sigma_max=sigma_max)
                coarse = edm.karras_sigmas((calls + 1) // 2, sigma_max=sigma_max)  # two calls a step
                found = (
                    edm.euler(denoise, noise, grid),
                    edm.heun(denoise, noise, coarse),
                    edm.dpm_solver_2m(denoise, noise, grid),
                )
                errors = [float((x - exact).square().mean().sqrt()) for x in found]
                print(f"| {calls} | " + " | ".join(f"{error:.4f}" for error in errors) + " |")


if __name__ == "__main__":
    main()
