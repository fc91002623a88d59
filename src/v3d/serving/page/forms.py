"""The tabs of the page that take requests. Each makes its components and says what its button sends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from v3d.serving.desk import SCENE_PATHS
from v3d.serving.manifest import SIDES
from v3d.serving.page.actions import AROUND, AS_IS, AUTO, UNKNOWN, WITH_PHOTOS, Actions
from v3d.serving.page.cutouts import KEEP, REMOVE
from v3d.settings import GeneratorName, Purpose

_NAMES = {"front": "Front", "left": "Its left", "back": "Back", "right": "Its right"}
_PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"]
_VIDEOS = [".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"]
_BY_QUALITY = "by quality"
_PAINT = '<p class="v3d-note">Paint <b>green</b> what belongs to the object, <b>red</b> what does not.</p>'
_MESHES = [".glb", ".ply", ".stl", ".obj"]
_EXAMPLES = (("pirate.png", "pirate_left.png", "pirate_back.png", "pirate_right.png"), ("chest.png",))
_PLACES = (Path(__file__).parent / "examples", Path(__file__).resolve().parents[4] / "examples")
"""Where the pictures of the examples are: in the package, or in a checkout."""


@dataclass(frozen=True)
class Form:
    """A tab's button and what it sends.

    Attributes:
        button: queues a job.
        act: of `Actions`, called with the values of `inputs`; returns the job's id.
        inputs: of the form.
    """

    button: gr.Button
    act: Any
    inputs: list[Any]


def photos_form(actions: Actions) -> tuple[Form, list[Any]]:
    """Photos by side, their cut-outs; and what `Actions.again` fills."""
    slots = _photo_slots("v3d")
    cutout = _cutout_editor(actions, slots)
    quality, seed = _common()
    purpose, size = _made_for("v3d-for")
    make = gr.Button("Make it", variant="primary", elem_id="v3d-make")
    with gr.Accordion("More", open=False):
        faces = gr.Textbox(label="Triangles at most", placeholder=_BY_QUALITY)
        texture = gr.Textbox(label="Texture, pixels a side", placeholder=_BY_QUALITY)
        elevation = gr.Slider(-30, 60, 0, step=1, label="Photos taken from above, degrees")
    _examples(slots)
    inputs = [*slots, quality, seed, purpose, size, faces, texture, elevation, *cutout]
    return Form(make, actions.photos, inputs), [*slots, quality, seed]


def views_form(actions: Actions) -> Form:
    """Own views: a zip of posed photos, or pictures around the object."""
    upload = gr.File(
        label="Zip of photos, video, or picture with a grid of views",
        file_types=[".zip", *_VIDEOS, *_PICTURES],
        elem_id="v3d-views-file",
        height=140,
    )
    cameras = gr.Radio(
        [WITH_PHOTOS, AROUND],
        value=WITH_PHOTOS,
        label="Cameras",
        info="With the photos: transforms.json, COLMAP, CO3D, Polycam or Record3D in the zip.",
        elem_id="v3d-cameras",
    )
    with gr.Group(visible=False) as known:
        law = gr.Dropdown([UNKNOWN, *get_args(GeneratorName)], value=UNKNOWN, label="Generator of the views")
        with gr.Row():
            elevation = gr.Textbox(label="Elevation, degrees", placeholder="is found")
            fov = gr.Textbox(label="Field of view, degrees", placeholder="60")
        direction = gr.Radio(
            ["auto", "clockwise", "counterclockwise"], value="auto", label="Way round, seen from above"
        )
    cameras.change(
        lambda value: gr.Group(visible=value == AROUND), [cameras], [known], api_visibility="private"
    )
    upload.upload(
        lambda path: gr.skip() if path.lower().endswith(".zip") else AROUND,
        [upload],
        [cameras],
        api_visibility="private",
    )
    quality, seed = _common()
    made_for = _made_for("v3d-views-for")
    make = gr.Button("Make it", variant="primary", elem_id="v3d-make-views")
    inputs = [upload, cameras, law, elevation, fov, direction, quality, seed, *made_for]
    return Form(make, actions.views, inputs)


def scene_form(actions: Actions) -> Form:
    """Posed photos of a scene."""
    upload = gr.File(
        label="Zip of photos with cameras", file_types=[".zip"], elem_id="v3d-scene-file", height=140
    )
    route = gr.Radio([AUTO, *SCENE_PATHS], value=AUTO, label="Path of the camera", elem_id="v3d-path")
    frames = gr.Slider(1, 120, 36, step=1, label="Frames of the path")
    quality, seed = _common()
    make = gr.Button("Make it", variant="primary", elem_id="v3d-make-scene")
    return Form(make, actions.scene, [upload, route, frames, quality, seed])


def texture_form(actions: Actions) -> Form:
    """A mesh and photos, or a zip of posed photos."""
    mesh = gr.File(label="Mesh", file_types=_MESHES, elem_id="v3d-mesh-file", height=120)
    slots = _photo_slots("v3d-texture")
    views = gr.File(
        label="Or a zip of photos with cameras", file_types=[".zip"], elem_id="v3d-texture-zip", height=120
    )
    size = gr.Textbox(label="Texture, pixels a side", placeholder=_BY_QUALITY)
    quality, seed = _common()
    make = gr.Button("Make it", variant="primary", elem_id="v3d-make-texture")
    return Form(make, actions.texture, [mesh, views, *slots, size, quality, seed])


def _common() -> tuple[gr.Radio, gr.Number]:
    """Quality and seed."""
    with gr.Row():
        quality = gr.Radio(["draft", "standard", "high"], value="draft", label="Quality", scale=4)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=1, min_width=70)
    return quality, seed


def _made_for(name: str) -> tuple[gr.Radio, gr.Textbox]:
    """What the mesh is made ready for, and its size."""
    with gr.Row():
        choices = [AS_IS, *get_args(Purpose)]
        purpose = gr.Radio(choices, value=AS_IS, label="Made for", elem_id=name, scale=4)
        size = gr.Textbox(
            label="Longest side",
            placeholder="12cm",
            elem_id=f"{name}-size",
            scale=1,
            min_width=110,
        )
    return purpose, size


def _photo_slots(prefix: str) -> list[gr.Image]:
    """A slot for a photo of each side, in the order of `SIDES`."""
    slots = {}
    for pair in (("front", "back"), ("left", "right")):
        with gr.Row():
            for side in pair:
                slots[side] = gr.Image(
                    label=_NAMES[side],
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    elem_id=f"{prefix}-{side}",
                    height=170,
                    min_width=120,
                    placeholder=f"Photo of the {side}",
                    buttons=[],
                )
    return [slots[side] for side in SIDES]


def _examples(slots: list[gr.Image]) -> None:
    """Photos to click, where the package has them."""
    rows = []
    for names in _EXAMPLES:
        found = [next((p / name for p in _PLACES if (p / name).is_file()), None) for name in names]
        if None not in found:
            rows.append([*map(str, found), *[None] * (len(SIDES) - len(found))])
    if rows:
        gr.Examples(rows, slots, label="Examples", elem_id="v3d-examples", cache_examples=False)


def _cutout_editor(actions: Actions, slots: list[gr.Image]) -> list[Any]:
    """The cut-out of one photo at a time, with a threshold and two brushes; what goes with a job."""
    with gr.Accordion("Cut-out: see and correct it", open=False, elem_id="v3d-cutout") as box:
        side = gr.Radio([(name, side) for side, name in _NAMES.items()], value="front", label="Photo")
        gr.HTML(_PAINT)
        editor = gr.ImageEditor(
            label="Cut-out",
            elem_id="v3d-editor",
            type="numpy",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(colors=[KEEP, REMOVE], default_color=KEEP, color_mode="fixed", default_size=18),
            eraser=gr.Eraser(default_size=18),
            height=420,
            buttons=[],
        )
        threshold = gr.Slider(0.02, 0.98, 0.5, step=0.02, label="How sure the cut-out must be")
        with gr.Row():
            update = gr.Button("Show the cut-out", elem_id="v3d-look", size="sm")
            reset = gr.Button("Forget corrections", elem_id="v3d-reset", size="sm")
        note = gr.Markdown(elem_id="v3d-cutout-note")
    shown, corrections = gr.State(""), gr.State({})
    now = [editor, threshold, shown, corrections, note]
    given = [side, threshold, editor, shown, corrections, *slots]
    private: dict[str, Any] = {
        "api_visibility": "private",
        "concurrency_limit": 1,
        "concurrency_id": "cutout",
    }
    box.expand(actions.look, given, now, **private)
    update.click(actions.look, given, now, **private)
    side.input(actions.look, given, now, **private)
    threshold.release(actions.look, given, now, **private)
    reset.click(actions.reset, [side, corrections, *slots], now, **private)
    return [editor, shown, threshold, corrections]
