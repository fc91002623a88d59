"""What users choose: the options of `v3d generate` and `v3d reconstruct`. (Imports nothing heavy.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from v3d.checks import ELEVATION, SEED, Range, check_numbers, whole

PerceptualNetwork = Literal["lpips", "vgg", "vae"]
"""A network of perceptual distances: LPIPS with AlexNet, LPIPS with VGG16, or V3D's own VAE encoder."""

Quality = Literal["draft", "standard", "high"]
"""How much time results may take (`v3d.objects.presets`, `v3d.scene.presets`)."""

GeneratorName = Literal["v3d", "sv3d", "zero123++", "zero123++-1.1", "syncdreamer", "wonder3d"]
"""A generator of pictures around an object whose camera law is known (`v3d.capture.orbit_law`)."""

Device = Literal["auto", "cpu", "cuda"]
"""Where to compute; auto takes a CUDA device where there is one (`v3d.runtime.pick_device`)."""

Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
"""The axis of the photos' world that is up; auto finds it by the cameras (`v3d.placement.up_direction`)."""

MeshFormat = Literal["glb", "obj", "stl", "3mf", "ply-mesh", "usd", "usdz"]
"""A file of the mesh (`v3d.objects.exports`)."""

SplatFormat = Literal["ply", "splat", "spz", "compressed", "splats-glb", "sog"]
"""A file of the Gaussians."""

Format = Literal[MeshFormat, SplatFormat, "html"]
"""Any file beside those of every run; html shows Gaussians and mesh."""


@dataclass(frozen=True)
class ReconstructSettings:
    """How posed views become splats and a mesh.

    Attributes:
        quality: draft takes seconds, standard a minute or two, high as long as it needs.
        until: stop after this stage.
        faces: triangles of the mesh at most; by default what the quality says.
        texture_size: pixels of the texture's side; by default what the quality says.
        formats: files to write; splats.ply and mesh.glb are always written, since runs resume from them.
            ply are the splats, ply-mesh is the mesh with vertex colours; usd and usdz need the extra `usd`.
        seed: of everything random; the same seed gives the same files on the same machine.
        device: auto takes a CUDA device where there is one.
    """

    quality: Quality = "standard"
    until: Literal["views", "splats", "mesh"] = "mesh"
    faces: int | None = None
    texture_size: int | None = None
    formats: tuple[Format, ...] = ("glb", "ply", "splat")
    seed: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(self, faces=whole(4, 10_000_000), texture_size=whole(16, 16_384), seed=SEED)


Purpose = Literal["game", "print", "web"]
"""What a mesh is for (`v3d.finishing.purposes`)."""

MapName = Literal["normal", "occlusion"]
"""An image of a mesh's material beside its colours."""


@dataclass(frozen=True)
class FinishSettings:
    """What a finished mesh gets, in the folder `finished` of the run.

    Attributes:
        purpose: sets faces, texture and the options below as a game, a print or a web page wants them; what
            is given beside it holds.
        size: length of the mesh's longest side with its unit: 80mm, 12cm, 0.3m, 5in.
        origin: the point (0, 0, 0): the middle of the mesh, or of its base.
        lods: levels of detail: lighter meshes of half, a quarter, an eighth ... of the faces.
        maps: images baked from the dense mesh: normals, and the sky that each point sees.
        quads: a mesh of quads (in the OBJ; needs the extra `quads`), the texture carried over.
        shading: flat shows every face.
        base: of a print: cut takes its lowest hundredth off, auto does where too little lies on the bed.
        image: of the texture; jpeg is a fifth as large.
    """

    purpose: Annotated[Purpose | None, arg(name="for")] = None
    size: str | None = None
    origin: Literal["centre", "base"] | None = None
    lods: int | None = None
    maps: tuple[MapName, ...] | None = None
    quads: bool = False
    shading: Literal["smooth", "flat"] = "smooth"
    base: Literal["keep", "cut", "auto"] | None = None
    image: Literal["png", "jpeg"] | None = None


@dataclass(frozen=True)
class OrbitSettings:
    """Where unposed pictures around an object were taken from.

    Attributes:
        law: the generator that made the pictures; it says all of the following.
        azimuths: of the pictures in degrees, counterclockwise seen from above; by default evenly around.
        elevation: degrees above the object's horizon: one for all pictures, or one for each; by
            default what fits their outlines best.
        fov: full field of view in degrees; 60 by default, 0 for parallel rays.
        direction: in which the pictures go round the object seen from above; auto tries both.
        grid: ROWSxCOLUMNS of pictures that come in one image, row by row.
        poses: how the cameras of a video are found: on a turntable (a circle, from outlines and motion), by
            structure from motion (needs the extra `colmap` and texture), or auto: whichever fits.
    """

    law: GeneratorName | None = None
    azimuths: tuple[float, ...] = ()
    elevation: tuple[float, ...] = ()
    fov: float | None = None
    direction: Literal["auto", "clockwise", "counterclockwise"] = "auto"
    grid: str | None = None
    poses: Literal["auto", "turntable", "sfm"] = "auto"

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(self, azimuths=Range(-36_000, 36_000), elevation=ELEVATION, fov=Range(0, 169))


@dataclass(frozen=True)
class GenerateSettings(ReconstructSettings):
    """How photos become an orbit of views, and those splats and a mesh.

    Attributes:
        model: mini (ships in the package), a folder of weights, or a hub id.
        steps: of the sampler; by default the model's own number.
        guidance: of classifier-free guidance: how closely the views follow the photo, 1 for none; by default
            the model's own.
        recentre: frame the object as the model expects, several photos at one scale; off keeps the framing of
            the files.
        elevation: degrees above the object's horizon that the photos were taken from; product photos are
            often taken from 10 to 30. The asset stands upright.
    """

    model: str = "mini"
    steps: int | None = None
    guidance: float | None = None
    recentre: bool = True
    elevation: float = 0.0

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        super().__post_init__()
        check_numbers(self, steps=whole(0, 1000), guidance=Range(0, 1000), elevation=ELEVATION)


@dataclass(frozen=True)
class SceneSettings:
    """How posed photos of a scene become views along a path, and Gaussians.

    Attributes:
        path: orbit, spiral, dolly, interpolate (between the photos), a path's .json file, or none: Gaussians
            of the photos alone. By default interpolate, and spiral for a single photo.
        frames: of the path; a .json path has its own.
        sources: numbers of the photos that views are generated from, counted from 0; by default all.
        quality: size of the views that Gaussians are fitted to, and how long.
        model: mini-scene (ships in the package) or a folder of weights.
        steps: of the sampler; by default the model's own number.
        seed: of everything random; the same seed gives the same files on the same machine.
        device: auto takes a CUDA device where there is one.
    """

    path: str | None = None
    frames: int = 36
    sources: tuple[int, ...] = ()
    quality: Quality = "standard"
    model: str = "mini-scene"
    steps: int | None = None
    seed: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(self, frames=whole(1, 10_000), sources=whole(0), steps=whole(0, 1000), seed=SEED)
