"""The finishing stage of a run, and the files of a finished mesh, in the run's folder `finished`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from v3d.errors import V3DError
from v3d.files import write_json
from v3d.finishing.purposes import Plan
from v3d.finishing.quads import check_quads
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.objects.exports import MESHES, check_formats, print_size_note, print_sized
from v3d.objects.finish import Finished, finish
from v3d.run import RunFolder, Stage
from v3d.settings import Format, ReconstructSettings

FOLDER = "finished"
"""Of a run, where the files of its finished mesh are."""


def finish_stage(
    run: RunFolder,
    mesh: Mesh,
    dense: Callable[[], Mesh],
    key: str,
    plan: Plan | None,
    formats: tuple[Format, ...],
) -> None:
    """The finished mesh (`finish`) and its files; without a plan, what an earlier run left of it goes.

    Args:
        run: its folder.
        mesh: with its texture.
        dense: makes the mesh with all its faces, see `finish`.
        key: that of the mesh, which decides the dense one too.
        plan: what to do.
        formats: files that the user asked for.
    """
    if plan is None:
        run.drop("finish")
        return
    wanted = formats_of(plan, formats)

    def compute(stage: Stage) -> Finished:
        finished = finish(mesh, dense, plan, name=run.name)
        printed = [MESHES[name].file for name in wanted if MESHES[name].printed]
        for note in finished.notes:
            stage.warn(note)
        if printed and plan.size is None:
            stage.warn(print_size_note(printed))
        stage.facts |= {"faces": len(finished.mesh.faces), "lods": [len(m.faces) for m, _ in finished.levels]}
        if finished.report is not None:
            stage.facts["print"] = finished.report.to_json()
            for advice in finished.report.advice:
                stage.warn(advice)
        return finished

    run.stage(
        "finish",
        version=1,
        inputs=[key, plan, wanted, run.name],
        files=[f"{FOLDER}/{name}" for name in finished_files(plan, wanted)],
        compute=compute,
        save=lambda finished: save_finished(run / FOLDER, finished, plan, wanted),
        load=lambda: None,
    )


def check_finish(plan: Plan | None, settings: ReconstructSettings) -> None:
    """See that a run can finish its mesh, before anything is computed.

    Raises:
        V3DError: something that formats or quads need is not installed, or the run stops before the mesh.
    """
    check_formats(settings.formats)
    if plan is not None and settings.until != "mesh":
        raise V3DError(f"There is no mesh to finish, since --until {settings.until} stops before it.")
    if plan is not None and plan.quads:
        check_quads()


def formats_of(plan: Plan, asked: tuple[Format, ...]) -> tuple[Format, ...]:
    """The files of a finished mesh: the plan's, the OBJ for quads, and those asked for beside mesh.glb."""
    quads: tuple[Format, ...] = ("obj",) if plan.quads else ()
    others = tuple(name for name in asked if name in MESHES and name != "glb")
    return tuple(dict.fromkeys((*plan.formats, *quads, *others)))


def finished_files(plan: Plan, formats: tuple[Format, ...]) -> list[str]:
    """Names of the files that `save_finished` writes."""
    names = [MESHES[name].file for name in formats]
    if not plan.dense:  # with a texture
        names += [file for name in formats for file in MESHES[name].beside]
        names += [f"mesh_{kind}.png" for kind in plan.maps if "usd" in formats]
    names += [f"mesh_lod{i + 1}.glb" for i in range(plan.lods)]
    return names + (["print.json"] if plan.report else [])


def save_finished(folder: Path, finished: Finished, plan: Plan, formats: tuple[Format, ...]) -> None:
    """Write the files of a finished mesh into a folder.

    Raises:
        V3DError: one of them cannot be written.
    """
    for name in formats:
        export, mesh = MESHES[name], finished.mesh
        sized = print_sized(mesh) if export.printed and plan.size is None else mesh
        export.save(sized, folder / export.file, finished.look)
    for i, (mesh, look) in enumerate(finished.levels):
        save_glb(mesh, folder / f"mesh_lod{i + 1}.glb", look)
    if finished.report is not None:
        write_json(folder / "print.json", finished.report.to_json())
