"""V3D: photos of an object become an orbit of views, 3D Gaussians and a textured mesh.

>>> import v3d
>>> asset = v3d.generate("cup.png", "out")
>>> asset = v3d.generate({0: "front.png", 90: "left.png", 180: "back.png", 270: "right.png"}, "out")
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Torch's OpenMP threads otherwise spin while they wait, which on a busy machine costs several times the work
# itself. Read when torch is first imported; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# oneDNN keeps a compiled product for each of its last 1,024 shapes. Every view has another number of rays, so
# a process that draws many orbits would grow by 100 MB with each of its first dozens.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

if TYPE_CHECKING:
    from v3d.cameras import Cameras, orbit
    from v3d.capture.photo import Photo, load_photo
    from v3d.capture.readers import load_views
    from v3d.diffusion.generator import Generator
    from v3d.diffusion.photos import OrbitPhotos
    from v3d.errors import V3DError
    from v3d.meshes.mesh import Mesh
    from v3d.objects.pipeline import Asset, generate, reconstruct
    from v3d.scene.pipeline import SceneAsset, generate_scene
    from v3d.settings import FinishSettings, GenerateSettings, ReconstructSettings, SceneSettings
    from v3d.splats.gaussians import Splats
    from v3d.views import Views, save_views

# Names are imported when they are first used, so that `import v3d` and `v3d --help` are quick.
_HOMES = {
    "v3d.cameras": ("Cameras", "orbit"),
    "v3d.diffusion.generator": ("Generator",),
    "v3d.diffusion.photos": ("OrbitPhotos",),
    "v3d.errors": ("V3DError",),
    "v3d.meshes.mesh": ("Mesh",),
    "v3d.capture.photo": ("Photo", "load_photo"),
    "v3d.objects.pipeline": ("Asset", "generate", "reconstruct"),
    "v3d.scene.pipeline": ("SceneAsset", "generate_scene"),
    "v3d.settings": ("FinishSettings", "GenerateSettings", "ReconstructSettings", "SceneSettings"),
    "v3d.splats.gaussians": ("Splats",),
    "v3d.capture.readers": ("load_views",),
    "v3d.views": ("Views", "save_views"),
}

__all__ = [
    "Asset",
    "Cameras",
    "FinishSettings",
    "GenerateSettings",
    "Generator",
    "Mesh",
    "OrbitPhotos",
    "Photo",
    "ReconstructSettings",
    "SceneAsset",
    "SceneSettings",
    "Splats",
    "V3DError",
    "Views",
    "generate",
    "generate_scene",
    "load_photo",
    "load_views",
    "orbit",
    "reconstruct",
    "save_views",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'v3d' has no attribute '{name}'")
