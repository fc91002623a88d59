"""`v3d texture` measured: a mesh of `v3d reconstruct`, stripped of its texture and textured anew.

    python benchmarks/texture.py examples/plane          # a minute on two cores

PSNR is of renders against the views that the textures were made from. The mesh is given back in three ways:
with its uv, without (so that it is unwrapped again), and as a run's folder.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import psnr
from v3d.objects.pipeline import reconstruct
from v3d.objects.texturing import texture_mesh
from v3d.settings import GenerateSettings, Quality
from v3d.views import Views


def main(views: Annotated[Path, tyro.conf.Positional], quality: Quality = "draft") -> None:
    """Print the PSNR of each."""
    settings = GenerateSettings(quality=quality, formats=("glb",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = reconstruct(views, folder / "made", settings)
        assert made.mesh is not None
        print(f"of v3d reconstruct  {_psnr(made.mesh, made.views):.2f} dB", flush=True)
        grey = torch.full((4, 4, 3), 0.5)
        save_glb(replace(made.mesh, texture=grey), folder / "uv.glb")
        save_glb(Mesh(made.mesh.vertices, made.mesh.faces), folder / "bare.glb")
        given = {"its uv": folder / "uv.glb", "no uv": folder / "bare.glb", "the run's folder": made.folder}
        for what, mesh in given.items():
            asset = texture_mesh(mesh, made.folder, folder / "textured", settings)
            assert asset.mesh is not None
            print(f"with {what:17}{_psnr(asset.mesh, made.views):6.2f} dB", flush=True)


def _psnr(mesh: Mesh, views: Views) -> float:
    images = torch.cat([render(mesh, views.cameras[i]).rgb for i in range(len(views))])
    return float(psnr(images, views.rgb).mean())


if __name__ == "__main__":
    tyro.cli(main)
