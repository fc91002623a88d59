"""The last stages of a run: other formats of its results, and pictures of them."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from v3d.files import atomic
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.objects.build import BuildInputs
from v3d.objects.exports import MESHES, SPLATS, VIEWER, Export, print_size_note, print_sized, save_viewer
from v3d.objects.presets import Preset
from v3d.preview import contact_sheet, textured, turntable
from v3d.run import RunFolder, Stage
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer
from v3d.video import save_video


def export_stage(
    run: RunFolder, splats: Splats | None, mesh: Mesh | None, keys: list[str], formats: tuple[str, ...]
) -> None:
    """The splats and the mesh in the other formats asked for."""
    splat_exports = [e for name, e in SPLATS.items() if splats is not None and name in formats]
    mesh_exports = [e for name, e in MESHES.items() if mesh is not None and name in formats and name != "glb"]
    exports: list[Export[Splats] | Export[Mesh]] = [*splat_exports, *mesh_exports]
    viewers = [VIEWER] if "html" in formats and (splats is not None or mesh is not None) else []

    def compute(stage: Stage) -> None:
        printed = [export.file for export in mesh_exports if export.printed]
        if printed:
            stage.warn(print_size_note(printed))

    def save(_: None) -> None:
        look = Look(name=run.name)
        for of_splats in splat_exports:
            assert splats is not None
            of_splats.save(splats, run / of_splats.file, look)
        for of_mesh in mesh_exports:
            assert mesh is not None
            of_mesh.save(print_sized(mesh) if of_mesh.printed else mesh, run / of_mesh.file, look)
        for name in viewers:
            save_viewer(run / name, splats, mesh, title=run.name)

    if exports or viewers:
        run.stage(
            "export",
            version=2,
            inputs=[keys, sorted([*(export.file for export in exports), *viewers])],
            files=[
                *(export.file for export in exports),
                *(name for e in exports for name in e.beside),
                *viewers,
            ],
            compute=compute,
            save=save,
            load=lambda: None,
        )
    elif (
        splats is not None
    ):  # this run has what it asked for: what another one asked for is not left beside it
        run.drop("export")


def preview_stage(
    run: RunFolder,
    inputs: BuildInputs,
    splats: Splats | None,
    mesh: Mesh | None,
    keys: list[str],
    preset: Preset,
) -> None:
    """Pictures of the result: the views and a turntable as videos, and one sheet of everything."""
    render = splat_renderer(splats) if splats is not None else None
    around = textured(mesh) if mesh is not None else render
    photo = inputs.photos.get(0)

    def compute(stage: Stage) -> tuple[Image.Image, Tensor | None]:
        sheet = contact_sheet(inputs.views, photo=photo, splats=render, mesh=mesh)
        return sheet, turntable(around, size=preset.turntable) if around is not None else None

    def save(pictures: tuple[Image.Image, Tensor | None]) -> None:
        sheet, frames = pictures
        with atomic(run / "preview.png") as temporary:
            sheet.save(temporary)
        save_video(inputs.views.rgb, run / "views.mp4")
        if frames is not None:
            save_video(frames, run / "turntable.mp4")

    run.stage(
        "preview",
        version=1,
        inputs=[keys, photo, preset.turntable],
        files=["preview.png", "views.mp4", *(["turntable.mp4"] if around is not None else [])],
        compute=compute,
        save=save,
        load=lambda: None,
    )
