"""The small VAE, whose encoder is the perceptual network of fits."""

from __future__ import annotations

import torch

from v3d.networks.vae import VAE, VAEConfig


def test_the_vae_of_perceptual_features() -> None:
    vae = VAE(VAEConfig(latent_channels=4, widths=(8, 8, 16), blocks=1))
    x = torch.rand(2, 4, 24, 32) * 2 - 1
    vae.mean.fill_(0.3)
    vae.std.fill_(2.0)
    z = vae.encode(x)
    assert z.shape == (2, 4, 3, 4)
    torch.testing.assert_close(z * 2 + 0.3, vae.moments(x)[0])
    assert vae.decode(z).shape == x.shape
    assert [tuple(f.shape[1:]) for f in vae.features(x)] == [(8, 12, 16), (8, 6, 8), (16, 3, 4)]
