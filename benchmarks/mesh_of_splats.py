"""Meshes of Gaussians measured: test objects from their true views, and from Gaussians fitted to these.

    python benchmarks/mesh_of_splats.py --corpus CORPUS.npz --manifest INDEX.json --sheet sheet.png

For every object the views of an orbit become a mesh, as `v3d reconstruct --quality draft` makes it, and
Gaussians; of the Gaussians, written to a file, `v3d mesh --quality draft` makes another. Chamfer distances
are to the object, which fills a ball of radius 0.8. Half an hour on two busy cores for six objects.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import tyro

from v3d.cameras import orbit
from v3d.evaluation.assets import MeasuredBuild
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import load_objects, object_ids
from v3d.meshes.mesh import Mesh
from v3d.objects.build import BuildInputs
from v3d.objects.from_splats import mesh_of_splats
from v3d.objects.presets import PRESETS
from v3d.preview import clay, sheet_of_rows, textured
from v3d.settings import ReconstructSettings
from v3d.splats.files.write import write_splats


def main(
    corpus: Path, manifest: Path, split: str = "test", limit: int = 6, sheet: Path | None = None
) -> None:
    """Print a line for every object, and the mean."""
    source = ObjectSource(corpus=corpus, manifest=manifest, split=split, real_scans=True, limit=limit)
    ratios, rows = [], {}
    for item in load_objects(source, object_ids(source)):
        truth = RECONSTRUCTION.place(item.mesh)
        measured = MeasuredBuild(BuildInputs(RECONSTRUCTION.true_orbit(item)), PRESETS["draft"], seed=0)
        splats = measured.splats(None)
        with tempfile.TemporaryDirectory() as folder:
            write_splats(Path(folder) / "splats.ply", splats)
            asset = mesh_of_splats(
                Path(folder) / "splats.ply", Path(folder) / "out", ReconstructSettings(quality="draft")
            )
        assert asset.mesh is not None
        a, b = (_chamfer(mesh, truth) for mesh in (measured.mesh, asset.mesh))
        ratios.append(b / a)
        print(f"{item.id:40} views {a:.5f}  splats {b:.5f}  ratio {b / a:.3f}", flush=True)
        cameras = orbit(3, size=160, elevation=25, azimuth=30)
        for name, mesh in (("views", measured.mesh), ("splats", asset.mesh)):
            rows[f"{item.id}, {name}"] = torch.cat([textured(mesh)(cameras), clay(mesh)(cameras)])
        if sheet is not None:
            sheet_of_rows(rows, tile=160).save(sheet)
    print(f"mean ratio {sum(ratios) / len(ratios):.3f}")


def _chamfer(mesh: Mesh, truth: Mesh) -> float:
    return RECONSTRUCTION.compare(mesh, truth)["chamfer"]


if __name__ == "__main__":
    tyro.cli(main)
