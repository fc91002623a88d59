"""The node "V3D: photos to 3D" and the way from V3D's types to ComfyUI's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, Types, io
from PIL import Image

_SIDES = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
_SH_DC = 0.28209479177387814
_TURN = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0))  # of Gaussians, see `_splat`
_TURN_QUAT = (0.5, 0.5, 0.5, -0.5)  # the same, wxyz


class V3DGenerate(io.ComfyNode):
    """One to four photos of an object -> a textured mesh, Gaussians, the views of the orbit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="V3DGenerate",
            display_name="V3D: photos to 3D",
            category="3d",
            description="Photos of one object become a textured mesh and Gaussians. Runs on CPUs too.",
            inputs=[
                io.Image.Input("front"),
                io.Image.Input("left", optional=True, tooltip="The object's own left side."),
                io.Image.Input("back", optional=True),
                io.Image.Input("right", optional=True),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the object is in the front photo (1); by default it is cut out.",
                ),
                io.Combo.Input("quality", options=["draft", "standard", "high"], default="standard"),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1),
                io.Int.Input("faces", default=20000, min=100, max=200000, tooltip="Triangles at most."),
                io.Float.Input(
                    "elevation",
                    default=0.0,
                    min=-30.0,
                    max=60.0,
                    tooltip="Degrees above the object's horizon that the photos were taken from.",
                ),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh"),
                io.Splat.Output(display_name="splat"),
                io.Image.Output(display_name="views"),
            ],
        )

    @classmethod
    def execute(
        cls,
        front: torch.Tensor,
        quality: str,
        seed: int,
        faces: int,
        elevation: float,
        left: torch.Tensor | None = None,
        back: torch.Tensor | None = None,
        right: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Make the asset; the first image of each batch counts."""
        import v3d

        settings = v3d.GenerateSettings(
            quality=quality, seed=seed, faces=faces, elevation=elevation, formats=()
        )
        images = {"front": front, "left": left, "back": back, "right": right}
        with tempfile.TemporaryDirectory(prefix="v3d-") as folder:
            photos = {
                _SIDES[side]: _saved(image[0], Path(folder) / f"{side}.png")
                for side, image in images.items()
                if image is not None
            }
            masks = None if mask is None else _saved(mask[0][..., None], Path(folder) / "mask.png")
            with torch.inference_mode(False), torch.enable_grad():  # Gaussians are fitted by gradients
                asset = v3d.generate(photos, folder, settings, name="asset", masks=masks)
        return io.NodeOutput(_mesh(asset.mesh), _splat(asset.splats), asset.views.rgb.cpu())


class V3DExtension(ComfyExtension):
    """The nodes of this folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them."""
        return [V3DGenerate]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls."""
    return V3DExtension()


def _saved(image: torch.Tensor, path: Path) -> Path:
    """An image [H, W, C] in [0, 1] as a PNG; C of 1, 3 or 4."""
    array = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(path)
    return path


def _mesh(mesh: Any) -> Any:
    """ComfyUI's mesh has glTF's axes: y up, z to the front; ours are z up, x to the front."""
    x, y, z = mesh.vertices.cpu().unbind(-1)
    return Types.MESH(
        torch.stack([y, z, x], -1)[None],
        mesh.faces.cpu()[None],
        uvs=mesh.uv.cpu()[None],
        texture=mesh.texture.cpu()[None],
    )


def _splat(splats: Any) -> Any:
    """ComfyUI's Gaussians have the axes of 3DGS: y down, z away from who looks at the front."""
    return Types.SPLAT(
        (splats.means.cpu() @ torch.tensor(_TURN).T)[None],
        splats.scales.cpu()[None],
        _turned(splats.quats.cpu())[None],
        splats.opacity.cpu()[None, :, None],
        ((splats.rgb.cpu() - 0.5) / _SH_DC)[None, :, None],
    )


def _turned(quats: torch.Tensor) -> torch.Tensor:
    """Unit quaternions wxyz after the turn of `_splat`: its quaternion times each."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    a, b, c, d = _TURN_QUAT
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        -1,
    )
