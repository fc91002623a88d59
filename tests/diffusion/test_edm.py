"""EDM: the mathematics of preconditioning, noise and samplers on a problem with a known answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from v3d.diffusion import edm
from v3d.errors import V3DError

VARIANCE = 0.5**2


def gaussian_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact `D` for data ~ N(1, VARIANCE): the posterior mean."""
    s = edm.expand(sigma, x)
    return (VARIANCE * x + s**2) / (VARIANCE + s**2)


def exact_solution(noise: Tensor, sigma_max: float) -> Tensor:
    """Of the probability-flow ODE from x = sigma_max * noise: (x - 1) shrinks with the marginal's width."""
    return 1 + (sigma_max * noise - 1) * math.sqrt(VARIANCE / (VARIANCE + sigma_max**2))


def test_preconditioning_gives_unit_variance_inputs_and_targets() -> None:
    pre = edm.Preconditioning(sigma_data=1.0)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 200_000, dtype=torch.float64, generator=generator)
    for level in (0.01, 0.5, 3.0, 200.0):
        sigma = torch.tensor([level], dtype=torch.float64)
        c_skip, c_out, c_in, c_noise = pre.coefficients(sigma)
        x = x0 + level * noise
        target = (x0 - c_skip * x) / c_out
        assert float((c_in * x).var()) == pytest.approx(1, abs=0.02)
        assert float(target.var()) == pytest.approx(1, abs=0.02)
        assert float(c_noise) == pytest.approx(math.log(level) / 4)
        assert float(pre.loss_weight(sigma) * c_out**2) == pytest.approx(1)


def test_denoise_is_exact_for_a_perfect_network() -> None:
    pre = edm.Preconditioning()
    x0, noise = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)
    x = x0 + edm.expand(sigma, x0) * noise
    v = (noise - edm.expand(sigma, x0) * x0) / edm.expand((1 + sigma**2).sqrt(), x0)  # v-prediction
    torch.testing.assert_close(pre.denoise(lambda *_: v, x, sigma), x0)


def test_noise_distribution_is_log_normal() -> None:
    sigma = edm.NoiseDistribution().sample(100_000, torch.Generator().manual_seed(0))
    assert float(sigma.log().mean()) == pytest.approx(1.5, abs=0.03)
    assert float(sigma.log().std()) == pytest.approx(2.0, abs=0.03)


def test_loss_of_the_zero_network_is_the_target_variance() -> None:
    pre = edm.Preconditioning()
    x0, noise = torch.randn(2, 64, 500, generator=torch.Generator().manual_seed(2))
    sigma = edm.NoiseDistribution().sample(64, torch.Generator().manual_seed(3))

    def zero_network(x: Tensor, sigma: Tensor) -> Tensor:
        return pre.denoise(lambda a, _: torch.zeros_like(a), x, sigma)

    loss = edm.edm_loss(zero_network, x0, sigma, noise, pre)
    assert loss.shape == (64,)
    assert float(loss.mean()) == pytest.approx(1, abs=0.05)


def test_karras_grid() -> None:
    sigmas = edm.karras_sigmas(25)
    assert len(sigmas) == 26 and float(sigmas[0]) == pytest.approx(700) and float(sigmas[-1]) == 0
    assert float(sigmas[-2]) == pytest.approx(0.002)
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(edm.euler, 1), (edm.heun, 2), (edm.dpm_solver_2m, 2)],
    ids=["euler", "heun", "dpm"],
)
def test_samplers_converge_with_their_order(sampler: edm.Sampler, order: int) -> None:
    noise = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = exact_solution(noise, 80.0)
    errors = []
    for steps in (40, 80):
        x = sampler(gaussian_denoiser, noise, edm.karras_sigmas(steps, sigma_max=80.0))
        errors.append(float((x - exact).abs().max()))
    assert errors[1] < {1: 0.06, 2: 0.02}[order]
    assert errors[0] / errors[1] > 2**order * 0.75


def mixture_denoiser(means: Tensor, width: float) -> edm.Denoiser:
    """The exact `D` for equally likely N(means [K, D], width^2 I)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = (width**2 + sigma**2)[:, None]
        weights = (-(x[:, None] - means).square().sum(-1) / (2 * variance)).softmax(-1)
        return (width**2 * x + sigma[:, None] ** 2 * (weights @ means)) / variance

    return denoise


def mixture_errors(sampler: edm.Sampler, grids: list[Tensor], sigma_max: float) -> list[float]:
    """RMSE over draws from a mixture against many Heun steps, for each grid."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    noise = torch.randn(64, 8, dtype=torch.float64, generator=generator)
    denoise = mixture_denoiser(means, 0.3)
    exact = edm.heun(denoise, noise, edm.karras_sigmas(1200, sigma_max=sigma_max))
    return [float((sampler(denoise, noise, grid) - exact).square().mean().sqrt()) for grid in grids]


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(edm.euler, 1), (edm.heun, 2), (edm.dpm_solver_2m, 2)],
    ids=["euler", "heun", "dpm"],
)
def test_samplers_converge_with_their_order_on_a_mixture(sampler: edm.Sampler, order: int) -> None:
    """Nonlinear, with branches: the error falls as steps^-order, measured over two doublings."""
    grids = [edm.karras_sigmas(steps, sigma_max=80.0) for steps in (60, 240)]
    coarse, fine = mixture_errors(sampler, grids, 80.0)
    assert math.log(coarse / fine, 4) == pytest.approx(order, abs=0.35)


def test_dpm_solver_needs_fewer_steps_than_euler() -> None:
    """16 steps of DPM-Solver++(2M) are no worse than the paper's 25 Euler steps, on its noise range."""
    (euler,) = mixture_errors(edm.euler, [edm.karras_sigmas(25)], 700.0)
    (dpm,) = mixture_errors(edm.dpm_solver_2m, [edm.karras_sigmas(16)], 700.0)
    assert dpm < 1.05 * euler


def test_samplers_report_steps_and_take_one() -> None:
    seen: list[tuple[int, int]] = []
    noise = torch.zeros(1, 2)
    x = edm.euler(gaussian_denoiser, noise, edm.karras_sigmas(1), lambda i, n: seen.append((i, n)))
    assert seen == [(1, 1)] and bool(torch.isfinite(x).all())


@pytest.mark.parametrize("steps", [0, -3])
def test_a_sampler_without_steps_is_refused_in_one_sentence(steps: int) -> None:
    with pytest.raises(V3DError, match="1 or more"):
        edm.karras_sigmas(steps)


@pytest.mark.parametrize("sampler", [edm.euler, edm.heun, edm.dpm_solver_2m])
def test_held_frames_end_in_their_data_and_draw_the_others_with_them(sampler: edm.Sampler) -> None:
    """Two frames with correlation 0.9: the free one goes where the held one says, about half of the way."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    seen: list[tuple[float, Tensor]] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        s2 = float(sigma[0]) ** 2
        seen.append((float(sigma[0]), x[:, 1].clone()))
        return x @ torch.linalg.solve(cov + s2 * torch.eye(2, dtype=torch.float64), cov)

    x0 = torch.tensor(1.5, dtype=torch.float64)
    noise = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = edm.karras_sigmas(40, 0.002, 80.0)
    samples = sampler(edm.hold(denoise, {1: x0}), noise, sigmas)
    torch.testing.assert_close(samples[:, 1], x0.expand(4000))
    n = (seen[0][1] - x0) / seen[0][0]
    for sigma, frame in seen:  # the network sees the data with noise of the step's level
        torch.testing.assert_close(frame, x0 + sigma * n)
    free = sampler(denoise, noise, sigmas)
    assert abs(float(free[:, 0].mean())) < 0.1
    assert 0.4 * 0.9 * 1.5 < float(samples[:, 0].mean()) < 0.9 * 1.5
    assert float(samples[:, 0].std()) < 0.75 * float(free[:, 0].std())
    assert edm.hold(denoise, {}) is denoise
