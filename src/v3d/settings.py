"""What users choose: the options of `v3d generate` and `v3d reconstruct`. (Imports nothing heavy.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quality = Literal["draft", "standard", "high"]


@dataclass(frozen=True)
class ReconstructSettings:
    """How posed views become splats and a mesh.

    Attributes:
        quality: draft takes seconds, standard a minute or two, high as long as it needs; see
            `v3d.presets`.
        until: stop after this stage.
        faces: at most so many triangles; by default what the quality says.
        texture_size: pixels of the texture's side; by default what the quality says.
        formats: files to write; splats.ply and mesh.glb are always written, since runs resume from them.
        seed: of everything random; the same seed gives the same files on the same machine.
        device: auto takes a CUDA device where there is one.
    """

    quality: Quality = "standard"
    until: Literal["views", "splats", "mesh"] = "mesh"
    faces: int | None = None
    texture_size: int | None = None
    formats: tuple[Literal["glb", "obj", "ply", "splat"], ...] = ("glb", "ply", "splat")
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class GenerateSettings(ReconstructSettings):
    """How a photo becomes an orbit of views, and those splats and a mesh.

    Attributes:
        model: mini (ships in the package), a folder of weights, or a hub id.
        steps: of the sampler; by default what the model says.
        guidance: strength of the photo's say over the views; by default what the model says.
        recentre: frame the object as the model expects; off keeps the photo's own framing.
    """

    model: str = "mini"
    steps: int | None = None
    guidance: float | None = None
    recentre: bool = True
