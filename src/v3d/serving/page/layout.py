"""The page as a whole: forms on one side, results on the other, and what makes them move."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from v3d.serving.desk import Desk
from v3d.serving.page import forms
from v3d.serving.page.actions import Actions
from v3d.serving.page.results import Panel, Results, make_panel
from v3d.serving.page.shown import Shown
from v3d.serving.page.style import CSS
from v3d.serving.page.tools import offer_tools

REFRESH = 1.0
"""Seconds between two looks at the chosen job."""
_HOUR = 3600
_TO_STATUS = "() => document.querySelector('#v3d-history').scrollIntoView({block: 'nearest'})"
_TITLE = "# V3D\nPhotos become 3D Gaussians and textured meshes, on this computer."


def make_page(desk: Desk, folder: Path, *, tools: bool = False) -> gr.Blocks:
    """The page of a desk.

    Args:
        desk: takes the requests.
        folder: what the page may hand to browsers is linked here, and nothing else.
        tools: offer what agents may call as well.
    """
    shown = Shown(desk.store, folder)
    actions = Actions(desk, shown)
    blocks = gr.Blocks(
        title="V3D", analytics_enabled=False, fill_width=True, delete_cache=(_HOUR, 24 * _HOUR)
    )
    with blocks:
        gr.Markdown(_TITLE, elem_classes="v3d-title")
        # The secret is no secret: it must be the same after a restart, or browsers forget their job.
        chosen = gr.BrowserState("", storage_key="v3d-job", secret="v3d")
        seen = gr.State(("", ""))
        with gr.Row(elem_classes="v3d-main"):
            with gr.Column(scale=2, min_width=320), gr.Tabs(elem_id="v3d-forms"):
                with gr.Tab("Photos"):
                    photos, reusable = forms.photos_form(actions)
                with gr.Tab("Views or video"):
                    views = forms.views_form(actions)
                with gr.Tab("Scene"):
                    scene = forms.scene_form(actions)
                with gr.Tab("Texture a mesh"):
                    texture = forms.texture_form(actions)
            with gr.Column(scale=3, min_width=320):
                panel = make_panel(seen)
        results = Results(desk, actions, shown)
        _wire(blocks, panel, results, actions, [photos, views, scene, texture], reusable, chosen, seen)
        if tools:
            offer_tools(desk)
    return blocks


def _wire(
    blocks: gr.Blocks,
    panel: Panel,
    results: Results,
    actions: Actions,
    asked: list[forms.Form],
    reusable: list[Any],
    chosen: gr.BrowserState,
    seen: gr.State,
) -> None:
    """What buttons, lists and the clock do."""
    show: dict[str, Any] = {"fn": results.show, "inputs": [chosen, seen], "outputs": panel.filled}
    show |= {"api_visibility": "private", "show_progress": "hidden"}
    private: dict[str, Any] = {"api_visibility": "private"}
    for form in asked:
        clicked = form.button.click(form.act, form.inputs, [chosen], **private)
        clicked.success(None, js=_TO_STATUS, **private)
        clicked.then(**show)
    panel.cancel.click(actions.cancel, [chosen], None, **private).then(**show)
    panel.remove.click(actions.remove, [chosen], [chosen], **private).then(**show)
    panel.again.click(actions.again, [chosen], reusable, **private)
    panel.history.input(lambda id: id, [panel.history], [chosen], **private).then(**show)
    blocks.load(results.load, [chosen], panel.filled, **private)
    gr.Timer(REFRESH).tick(**show, queue=False)


def mount(app: Any, desk: Desk, root: Path, *, mcp: bool = False) -> Any:
    """The application with the page at `/`.

    Args:
        app: what it is mounted on.
        desk: takes the requests.
        root: of the jobs; the page's own files are in `root/page`.
        mcp: offer `v3d.serving.page.tools` to agents, at `/gradio_api/mcp/`.
    """
    shown = (root / "page/shown").absolute()
    shown.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str((root / "page/uploads").absolute())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gr.set_static_paths(shown)
    if find_spec("pillow_heif") is not None:
        import pillow_heif  # optional; the framework opens photos before the desk sees them

        pillow_heif.register_heif_opener()
    theme = gr.themes.Base(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return gr.mount_gradio_app(
        app,
        make_page(desk, shown, tools=mcp),
        path="/",
        show_error=True,
        theme=theme,
        head=f"<style>{CSS}</style>",  # `css` would be narrowed to what is inside the page's own box
        ssr_mode=False,
        footer_links=[],
        max_file_size="512mb",
        run_history=False,
        mcp_server=mcp,
    )
