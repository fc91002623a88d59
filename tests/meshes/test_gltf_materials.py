"""Materials of glTF as they are: the colours of rendered pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from made_gltf import (
    AT,
    BLUE,
    CORNERS,
    GREEN,
    RED,
    UV,
    YELLOW,
    Gltf,
    check,
    colours_at,
    light,
    quarters,
    srgb,
)
from v3d.meshes.files import load_mesh, read_mesh

FOUR = [RED, GREEN, BLUE, YELLOW]


def test_a_texture_stays_as_it_is(tmp_path: Path) -> None:
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(quarters())}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.texture is not None
    np.testing.assert_array_equal((mesh.texture * 255).round().numpy(), quarters())
    check(colours_at(mesh, *AT), FOUR)


def test_texture_factor_and_vertex_colours_multiply_as_light(tmp_path: Path) -> None:
    gltf = Gltf()
    factor = [0.5, 0.8, 1.0, 1.0]
    colours = np.array([[1, 1, 1], [0.2, 1, 1], [0.2, 1, 1], [1, 1, 1]], np.float32)
    surface = {"baseColorTexture": gltf.texture(quarters(64)), "baseColorFactor": factor}
    gltf.primitive(COLOR_0=colours)["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    places = np.array(AT)
    tint = np.ones((4, 3))
    tint[:, 0] = 1 - 0.8 * (places[:, 0] + 0.5)
    check(colours_at(mesh, *AT), srgb(light(np.array(FOUR)) * factor[:3] * tint))


def test_plain_vertex_colours_run_evenly_and_are_linear(tmp_path: Path) -> None:
    gltf = Gltf()
    colours = np.array([[0, 0, 0], [65535, 0, 0], [65535, 65535, 0], [0, 65535, 0]], np.uint16)
    gltf.primitive(COLOR_0=gltf.array(np.pad(colours, ((0, 0), (0, 1)))[:, :3], normalized=True))
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    seen = colours_at(mesh, (-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (0.2, -0.3))
    expected = [[0.05, 0.05, 0], [0.95, 0.05, 0], [0.95, 0.95, 0], [0.7, 0.2, 0]]
    np.testing.assert_allclose(light(seen), expected, atol=0.03)  # linear within texels, and 8 bits


def test_texture_transform_scales_turns_moves_and_chooses_the_uv(tmp_path: Path) -> None:
    gltf = Gltf()
    angle = math.pi / 2
    transform = {"offset": [0.0, 1.0], "rotation": angle, "scale": [0.5, 1.0], "texCoord": 1}
    texture = gltf.texture(quarters()) | {"texCoord": 0, "extensions": {"KHR_texture_transform": transform}}
    gltf.json["extensionsRequired"] = ["KHR_texture_transform"]
    primitive = gltf.primitive(TEXCOORD_0=np.zeros_like(UV), TEXCOORD_1=UV)
    primitive["material"] = gltf.material(pbrMetallicRoughness={"baseColorTexture": texture})
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    # Counter-clockwise as uv are drawn (v down): (u, v) -> (v, -u), here after u is halved and before v + 1.
    # Upper left of the square (.25, .25) -> (.25, .875): blue; upper right (.75, .25) -> (.25, .625): blue;
    # lower left (.25, .75) -> (.75, .875): yellow; lower right (.75, .75) -> (.75, .625): yellow.
    check(colours_at(mesh, *AT), [BLUE, BLUE, YELLOW, YELLOW])


def test_specular_glossiness_shows_its_diffuse_colour(tmp_path: Path) -> None:
    gltf = Gltf()
    old = {"diffuseTexture": gltf.texture(quarters()), "diffuseFactor": [0.5, 0.5, 0.5, 1]}
    gltf.json["extensionsUsed"] = ["KHR_materials_pbrSpecularGlossiness"]
    primitive = gltf.primitive()
    primitive["material"] = gltf.material(extensions={"KHR_materials_pbrSpecularGlossiness": old})
    check(colours_at(load_mesh(gltf.save(tmp_path / "a.glb")), *AT), srgb(light(np.array(FOUR)) / 2))


@pytest.mark.parametrize("base", [[0, 0, 0, 1], [0.1, 0.2, 0.0, 1]])
def test_emission_is_added_as_light(tmp_path: Path, base: list[float]) -> None:
    gltf = Gltf()
    primitive = gltf.primitive()
    primitive["material"] = gltf.material(
        pbrMetallicRoughness={"baseColorFactor": base},
        emissiveTexture=gltf.texture(quarters()),
        emissiveFactor=[0.5, 0.5, 0.5],
    )
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(read.mesh, *AT), srgb((light(np.array(FOUR)) / 2 + base[:3]).clip(0, 1)))
    assert any("light" in note for note in read.notes)


def test_base_and_emission_with_one_uv_stay_one_image(tmp_path: Path) -> None:
    gltf = Gltf()
    glow = np.zeros((8, 8, 3), np.uint8)
    glow[:, 4:] = 100
    primitive = gltf.primitive()
    primitive["material"] = gltf.material(
        pbrMetallicRoughness={"baseColorTexture": gltf.texture(quarters())},
        emissiveTexture=gltf.texture(glow),
        emissiveFactor=[1, 1, 1],
    )
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.texture is not None and mesh.texture.shape == (32, 32, 3)
    added = light(100 / 255) * np.array([[0], [1], [0], [1]])
    check(colours_at(mesh, *AT), srgb((light(np.array(FOUR)) + added).clip(0, 1)))


def test_a_masked_texture_cuts_the_geometry(tmp_path: Path) -> None:
    """A disc of radius 0.3 in a square of alpha 0."""
    y, x = (np.indices((128, 128)) + 0.5) / 128 - 0.5
    image = np.full((128, 128, 4), 255, np.uint8)
    image[..., :3] = (200, 100, 50)
    image[..., 3] = np.where(np.hypot(x, y) < 0.3, 255, 0)
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(image)}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface, alphaMode="MASK")
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert float(mesh.face_areas.sum()) == pytest.approx(math.pi * 0.3**2, rel=0.01)
    check(colours_at(mesh, (0, 0), (0.25, 0), (-0.2, 0.15)), np.array([200, 100, 50]) / 255)
    check(colours_at(mesh, (0.36, 0), (0.4, 0.4), (-0.3, 0.3)), 1.0)  # the white ground
    assert len(mesh.faces) < 20_000


def test_what_blends_is_solid_where_it_is_more_than_half_there(tmp_path: Path) -> None:
    gltf = Gltf()
    image = np.full((16, 16, 4), 255, np.uint8)
    image[:, :8, 3] = 0
    image[:, 8:, :3] = (10, 120, 240)
    surface = {"baseColorTexture": gltf.texture(image), "baseColorFactor": [1, 1, 1, 0.3]}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface, alphaMode="BLEND")
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(read.mesh, (-0.25, 0.25), (-0.1, -0.2)), 1.0)
    check(colours_at(read.mesh, (0.25, 0.25), (0.1, -0.2)), np.array([10, 120, 240]) / 255)
    assert read.notes == ("what is half transparent is shown as solid or left out",)


def test_opaque_materials_ignore_alpha(tmp_path: Path) -> None:
    gltf = Gltf()
    image = np.dstack([quarters(), np.zeros((32, 32), np.uint8)])
    surface = {"baseColorTexture": gltf.texture(image)}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface)
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(read.mesh, *AT), FOUR)
    assert len(read.mesh.faces) == 2 and read.notes == ()


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [(10497, [RED, GREEN, RED, GREEN]), (33071, [GREEN] * 4), (33648, [GREEN, RED, GREEN, RED])],
)
def test_the_sampler_says_what_lies_beyond_the_border(tmp_path: Path, wrap: int, expected: list) -> None:
    """Uv from (3, 0) to (4, .5): a whole texture to the right of the third."""
    gltf = Gltf(samplers=[{"wrapS": wrap, "wrapT": wrap}])
    surface = {"baseColorTexture": gltf.texture(quarters(), sampler=0)}
    primitive = gltf.primitive(TEXCOORD_0=(UV * (1, 0.5) + (3, 0)).astype(np.float32))
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.texture is not None and mesh.texture.shape[0] <= 34
    check(colours_at(mesh, *AT), expected)


def test_repeats_are_cut_not_tiled(tmp_path: Path) -> None:
    """A texture of 512 pixels ten times along either side of a square."""
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(quarters(512))}
    primitive = gltf.primitive(TEXCOORD_0=(UV * 10 - 3.0).astype(np.float32))
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.texture is not None and mesh.texture.shape[:2] == (514, 514)
    assert float(mesh.face_areas.sum()) == pytest.approx(1.0, abs=1e-5)
    # Cell (i, j) from the upper left; the middles of its quarters.
    for i, j in ((0, 0), (4, 7), (9, 9), (5, 0)):
        places = [(-0.5 + (i + u) / 10, 0.5 - (j + v) / 10) for v in (0.25, 0.75) for u in (0.25, 0.75)]
        check(colours_at(mesh, *places), FOUR)


@pytest.mark.parametrize("far", [-(2.0**20), 2.0**20])
def test_uv_far_from_the_texture_keep_their_precision(tmp_path: Path, far: float) -> None:
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(quarters())}
    primitive = gltf.primitive(TEXCOORD_0=(UV * 3 + far).astype(np.float32))
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(mesh, *(np.array(AT) / 3)), FOUR)


def test_clamped_borders_go_on_for_ever(tmp_path: Path) -> None:
    """Uv from -1e6 to 1e6: next to nothing is the texture, the rest its corners."""
    gltf = Gltf(samplers=[{"wrapS": 33071, "wrapT": 33071}])
    surface = {"baseColorTexture": gltf.texture(quarters(), sampler=0)}
    primitive = gltf.primitive(TEXCOORD_0=(UV - np.float32(0.5)) * np.float32(2e6))
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(mesh.faces) < 60
    check(colours_at(mesh, *AT), FOUR)


def test_a_texture_that_repeats_without_end_shows_its_mean_light(tmp_path: Path) -> None:
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(quarters())}
    primitive = gltf.primitive(TEXCOORD_0=UV * np.float32(1e5))
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(read.mesh, *AT), srgb(light(np.array(FOUR)).mean(0)))
    assert any("mean colour" in note for note in read.notes)


def test_several_materials_stand_side_by_side(tmp_path: Path) -> None:
    """A square with a texture, one with vertex colours on the left, and one without a material."""
    gltf = Gltf()
    surface = {"baseColorTexture": gltf.texture(quarters(), form="WEBP")}
    gltf.json["textures"] = [{"extensions": {"EXT_texture_webp": {"source": 0}}}]
    small = CORNERS * np.float32(0.4)
    gltf.primitive(POSITION=small)["material"] = gltf.material(pbrMetallicRoughness=surface)
    orange = np.tile(np.array([255, 51, 0, 255], np.uint8), (4, 1))
    left = small + np.array([-0.4, 0, 0], np.float32)
    gltf.primitive(POSITION=left, COLOR_0=gltf.array(orange, normalized=True))
    gltf.primitive(POSITION=small + np.array([0.4, 0, 0], np.float32))
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    check(colours_at(mesh, *(0.4 * np.array(AT))), FOUR)
    check(colours_at(mesh, (-0.4, 0), (-0.5, 0.1)), srgb(np.array([1, 0.2, 0])))
    check(colours_at(mesh, (0.4, 0)), 1.0)


def test_a_missing_texture_is_said_and_leaves_no_colour(tmp_path: Path) -> None:
    gltf = Gltf(images=[{"uri": "gone.png"}], textures=[{"source": 0}])
    surface = {"baseColorTexture": {"index": 0}}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface)
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    assert read.mesh.texture is None
    assert read.notes == ("the texture gone.png is left out: there is no file gone.png beside it",)


def test_compressed_textures_are_named(tmp_path: Path) -> None:
    gltf = Gltf(images=[{"uri": "data:application/octet-stream;base64,q0tUWCAyMLsNChoK"}])
    gltf.json["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    gltf.json["extensionsRequired"] = ["KHR_texture_basisu"]
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness={"baseColorTexture": {"index": 0}})
    (note,) = read_mesh(gltf.save(tmp_path / "a.glb")).notes
    assert "KTX2" in note and "PNG" in note
