"""The nodes of ComfyUI, without it: a stand-in for the one module of it that is imported."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from v3d.meshes.mesh import Mesh
from v3d.splats.gaussians import Splats, rotations

FOLDER = Path(__file__).parents[2] / "integrations/comfyui"


class Recorded:
    """Keeps what it was made of."""

    def __init__(self, *values: Any, **named: Any) -> None:
        self.values, self.named = values, named
        self.__dict__.update(named)


def host() -> ModuleType:
    """What nodes import of ComfyUI, as far as it is used here."""
    latest = ModuleType("comfy_api.latest")
    types = ("Image", "Mask", "Combo", "Int", "Float", "Mesh", "Splat")
    io = SimpleNamespace(
        ComfyNode=object, Schema=Recorded, NodeOutput=Recorded,
        **{name: SimpleNamespace(Input=Recorded, Output=Recorded) for name in types},
    )  # fmt: skip
    latest.io, latest.ComfyExtension = io, object  # type: ignore[attr-defined]
    latest.Types = SimpleNamespace(MESH=Recorded, SPLAT=Recorded)  # type: ignore[attr-defined]
    return latest


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", host())
    spec = importlib.util.spec_from_file_location(
        "v3d_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "v3d_nodes", package)
    spec.loader.exec_module(package)
    yield sys.modules.pop("v3d_nodes.nodes")


def test_the_entry_point_names_a_node_whose_inputs_are_its_arguments(nodes: Any) -> None:
    (node,) = asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())
    schema = node.define_schema()
    arguments = node.execute.__func__.__code__
    assert {i.values[0] for i in schema.inputs} == set(arguments.co_varnames[1 : arguments.co_argcount])
    assert len(schema.outputs) == 3


def test_axes_are_those_of_the_host(nodes: Any) -> None:
    world = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])  # front, left, up
    mesh = nodes._mesh(Mesh(world, torch.tensor([[0, 1, 2]]), torch.zeros(3, 2), torch.zeros(2, 2, 3)))
    assert mesh.values[0].tolist() == [[[0, 0, 1], [1, 0, 0], [0, 1, 0]]]  # glTF: z front, x left, y up
    quats = torch.nn.functional.normalize(
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    scales = torch.tensor([[0.1, 0.2, 0.3]]).expand(3, 3)
    rgb = torch.tensor([[0.5, 0.7, 0.2]]).expand(3, 3)
    splat = nodes._splat(Splats(world, quats, scales.log(), torch.zeros(3), rgb))
    means, out_scales, out_quats, opacity, sh = splat.values
    # y down, z away: half a turn about x from glTF's axes
    half = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    torch.testing.assert_close(means[0], mesh.values[0][0] @ half)
    before = rotations(quats) @ torch.diag_embed(scales**2) @ rotations(quats).mT
    after = rotations(out_quats[0]) @ torch.diag_embed(out_scales[0] ** 2) @ rotations(out_quats[0]).mT
    turn = torch.tensor(nodes._TURN)
    torch.testing.assert_close(after, turn @ before @ turn.T)
    assert opacity.shape == (1, 3, 1) and opacity.unique().tolist() == [0.5]
    torch.testing.assert_close(sh[0, :, 0] * 0.28209479177387814 + 0.5, rgb)


def test_photos_become_a_mesh_gaussians_and_views(nodes: Any) -> None:
    y, x = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    inside = ((x - 32) / 20) ** 2 + ((y - 40) / 30) ** 2 < 1
    image = torch.where(inside[..., None], torch.tensor([0.8, 0.2, 0.1]), torch.tensor([0.1, 0.5, 0.2]))
    with torch.inference_mode():  # as ComfyUI runs its nodes
        output = nodes.V3DGenerate.execute(
            image[None], "draft", 1, 500, 0.0, back=image[None], mask=inside[None].float()
        )
    mesh, splat, views = output.values
    vertices, faces = mesh.values
    high = vertices[0].amax(0) - vertices[0].amin(0)
    assert 100 < faces.shape[1] <= 500 and high[1] == high.max()  # taller than wide
    texture = mesh.texture[0].reshape(-1, 3).median(0).values
    assert texture[0] > 0.6 and texture[1] < 0.4  # the drawing is red; the ground was cut off by the mask
    means = splat.values[0][0] * torch.tensor([1.0, -1.0, -1.0])  # into the mesh's axes
    assert len(means) > 1000
    torch.testing.assert_close(means.median(0).values, vertices[0].median(0).values, atol=0.1, rtol=0)
    torch.testing.assert_close(means.std(0), vertices[0].std(0), atol=0.1, rtol=0)
    assert views.shape[0] == 18 and views.min() >= 0 and views.max() <= 1
