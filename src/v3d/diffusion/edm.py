"""EDM (Karras et al. 2022, arXiv 2206.00364) with V3D's constants: preconditioning, loss, samplers.

A denoiser `D(x, sigma)` maps noisy `x = x0 + sigma * n` to its estimate of `x0`; `sigma` is a tensor [B].
Everything that knows about networks hides behind that one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.errors import V3DError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`D(x [B, ...], sigma [B]) -> x0 [B, ...]`."""

Network = Callable[[Tensor, Tensor], Tensor]
"""`F(c_in * x [B, ...], c_noise [B]) -> [B, ...]`, the raw network."""


class Sampler(Protocol):
    """`euler`, `heun` or `dpm_solver_2m`: standard normal noise [B, ...] -> samples [B, ...]."""

    def __call__(
        self, denoise: Denoiser, noise: Tensor, sigmas: Tensor, on_step: OnStep | None = None
    ) -> Tensor:
        """Solve the probability-flow ODE along `sigmas` [steps + 1], which fall and end in 0."""
        ...


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many axes as `x`."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Preconditioning:
    """v-prediction in EDM form (paper sec. 3; EDM table 1): `D = c_skip x + c_out F(c_in x, c_noise)`.

    With sigma_data = 1 this is the scaling that SVD and V3D were trained with.

    Attributes:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float = 1.0

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`c_skip, c_out, c_in, c_noise`, each shaped as `sigma`."""
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = -sigma * self.sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        c_noise = 0.25 * sigma.log()
        return c_skip, c_out, c_in, c_noise

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """`D(x, sigma)` [B, ...] of a raw network F (EDM eq. 7).

        Args:
            network: F.
            x: [B, ...] noisy data.
            sigma: [B] noise levels; the coefficients are computed in their type, then take that of `x`.
        """
        c_skip, c_out, c_in, c_noise = (c.to(x) for c in self.coefficients(sigma))
        return expand(c_skip, x) * x + expand(c_out, x) * network(expand(c_in, x) * x, c_noise)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """`lambda(sigma) = 1 / c_out^2` [B] (EDM table 1): targets of F have unit variance at any sigma."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


def hold(denoise: Denoiser, known: Mapping[int, Tensor]) -> Denoiser:
    """A denoiser that holds frames that are known, so that the others are sampled to fit them.

    D of a held frame is its data x0. Every solver of dx/dsigma = (x - D) / sigma then keeps it at x0 + sigma
    n with a fixed n (its first noise less x0 over the first sigma), as the network has to see it, and ends
    in x0. The others follow, though less than they would given x0 exactly (Ho et al. 2022, arXiv 2204.03458,
    sec. 3.1): two Gaussian frames with correlation 0.9 go half of the way.

    Args:
        denoise: D of x [B, V, ...] and sigma [B].
        known: number of a frame -> its x0 [...].
    """
    if not known:
        return denoise

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        D_x = denoise(x, sigma).clone()
        for v, x0 in known.items():
            D_x[:, v] = x0.to(D_x)
        return D_x

    return held


@dataclass(frozen=True)
class NoiseDistribution:
    """Noise levels of training, `ln sigma ~ N(P_mean, P_std^2)` (EDM table 1).

    Attributes:
        P_mean: mean of ln sigma, by default the paper's (sec. 3.1).
        P_std: standard deviation of ln sigma, by default the paper's.
    """

    P_mean: float = 1.5
    P_std: float = 2.0

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """[count] random noise levels sigma; without a generator, of torch's global one."""
        return (self.P_mean + self.P_std * torch.randn(count, generator=generator)).exp()


def edm_loss(
    denoise: Denoiser, x0: Tensor, sigma: Tensor, noise: Tensor, preconditioning: Preconditioning
) -> Tensor:
    """Weighted squared error per sample [B] (EDM eq. 2), averaged over all other axes.

    Args:
        denoise: D.
        x0: [B, ...] data.
        sigma: [B] noise levels.
        noise: [B, ...] standard normal.
        preconditioning: whose `loss_weight` weighs the errors.
    """
    x = x0 + expand(sigma, x0) * noise
    error = (denoise(x, sigma) - x0).square().flatten(1).mean(1)
    return preconditioning.loss_weight(sigma) * error


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Tensor:
    """[steps + 1] noise levels from sigma_max down to sigma_min, then 0 (EDM eq. 5), float64.

    Raises:
        V3DError: there is not one step.
    """
    if steps < 1:
        raise V3DError(
            f"The sampler cannot take {steps} steps; give 1 or more (0 is for the mini models only)."
        )
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def euler(denoise: Denoiser, noise: Tensor, sigmas: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Euler's method on dx/dsigma = (x - D(x, sigma)) / sigma; the paper's sampler.

    Args:
        denoise: D.
        noise: [B, ...] standard normal.
        sigmas: [steps + 1] decreasing, ending in 0 (`karras_sigmas`).
        on_step: called after every step.

    Returns:
        [B, ...] samples of the data.
    """
    x = noise * float(sigmas[0])
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        d = (x - denoise(x, x.new_full((len(x),), sigma))) / sigma
        x = x + (sigma_next - sigma) * d
        if on_step:
            on_step(i + 1, len(sigmas) - 1)
    return x


def heun(denoise: Denoiser, noise: Tensor, sigmas: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Heun's second-order method (EDM algorithm 1), two denoiser calls a step.

    The last step, to sigma 0, is Euler's, with one call.

    Args:
        denoise: D.
        noise: [B, ...] standard normal.
        sigmas: [steps + 1] decreasing, ending in 0 (`karras_sigmas`).
        on_step: called after every step.

    Returns:
        [B, ...] samples of the data.
    """
    x = noise * float(sigmas[0])
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        d = (x - denoise(x, x.new_full((len(x),), sigma))) / sigma
        euler_x = x + (sigma_next - sigma) * d
        if sigma_next > 0:
            d_next = (euler_x - denoise(euler_x, x.new_full((len(x),), sigma_next))) / sigma_next
            x = x + (sigma_next - sigma) * (d + d_next) / 2
        else:
            x = euler_x
        if on_step:
            on_step(i + 1, len(sigmas) - 1)
    return x


def dpm_solver_2m(denoise: Denoiser, noise: Tensor, sigmas: Tensor, on_step: OnStep | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): second order with one denoiser call a step.

    In t = -ln sigma the exact step is x' = (sigma'/sigma) x - (e^{-h} - 1) D; the previous D_x
    extrapolates D linearly. Below a dozen steps it wants sigma_max near 80, not 700.

    Args:
        denoise: D.
        noise: [B, ...] standard normal.
        sigmas: [steps + 1] decreasing, ending in 0 (`karras_sigmas`).
        on_step: called after every step.

    Returns:
        [B, ...] samples of the data.
    """
    x = noise * float(sigmas[0])
    previous: Tensor | None = None
    h_previous = 0.0
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        D_x = denoise(x, x.new_full((len(x),), sigma))
        if sigma_next == 0:
            x = D_x
        else:
            ratio = sigma_next / sigma
            h = -float(torch.tensor(ratio, dtype=torch.float64).log())
            D = D_x
            if previous is not None:
                D = D_x + (h / (2 * h_previous)) * (D_x - previous)
            x = ratio * x - (ratio - 1) * D
            previous, h_previous = D_x, h
        if on_step:
            on_step(i + 1, len(sigmas) - 1)
    return x
