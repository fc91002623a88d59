"""Geometry in float32 inside autocast: function by function, and in the whole orbit of the mini model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from v3d import cameras
from v3d.autocast import without_autocast
from v3d.cameras import Cameras, look_at, orbit, poses
from v3d.diffusion import guide, mini
from v3d.diffusion.guide import warp_nearest
from v3d.diffusion.mini import MiniModel, as_images
from v3d.diffusion.photos import OrbitPhotos
from v3d.networks import interpolation, pixelnerf, sources, volume_rendering
from v3d.networks.interpolation import interpolate
from v3d.networks.sources import Sources, camera_similarity, patch_rays, project
from v3d.networks.volume_rendering import (
    composite,
    even_edges,
    flat_rays,
    importance_edges,
    points_on_rays,
    rendering_weights,
    sample_depths,
)
from v3d.weights import MINI, MINI_SCENE

LOW = (torch.bfloat16, torch.float16)


class Float32Only(TorchDispatchMode):
    """Any operation on a tensor of low precision is an error, those of autocast's casts included."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            assert not (isinstance(leaf, Tensor) and leaf.dtype in LOW), f"{func} in {leaf.dtype}"
        return out


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


AROUND = orbit(4, size=8, elevation=20.0)
SOURCES = Sources.of(random(2, 4, 16, 16), AROUND[[0, 1]])
ORIGINS, DIRECTIONS = flat_rays(AROUND[0])
EDGES = even_edges(ORIGINS, 6)
DEPTH = sample_depths(EDGES, 1.0, 3.0)

# Every function of geometry that a network's forward pass may reach, with arguments for it.
GEOMETRY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "w2c": (Cameras.w2c.fget, (AROUND,)),  # type: ignore[attr-defined]  # the property's function
    "turned": (Cameras.turned, (AROUND, 30.0)),
    "tilted": (Cameras.tilted, (AROUND, 30.0)),
    "resized": (Cameras.resized, (AROUND, 4, 4)),
    "project": (Cameras.project, (AROUND, random(5, 3))),
    "rays": (Cameras.rays, (AROUND,)),
    "poses": (poses, (AROUND, AROUND)),
    "look_at": (look_at, (AROUND.centers,)),
    "Sources.of": (Sources.of, (random(2, 4, 16, 16), AROUND[[0, 1]])),
    "sources.project": (project, (SOURCES, random(1, 5, 3))),
    "patch_rays": (patch_rays, (SOURCES, 4)),
    "camera_similarity": (camera_similarity, (AROUND, AROUND)),
    "flat_rays": (flat_rays, (AROUND,)),
    "even_edges": (even_edges, (ORIGINS, 6)),
    "importance_edges": (importance_edges, (random(1, 64, 6), 5)),
    "sample_depths": (sample_depths, (EDGES, 1.0, 3.0)),
    "points_on_rays": (points_on_rays, (ORIGINS, DIRECTIONS, DEPTH)),
    "rendering_weights": (rendering_weights, (random(1, 64, 6), DEPTH, EDGES, DIRECTIONS, 1.0, 3.0)),
    "composite": (composite, (random(1, 64, 6), DEPTH, random(1, 64, 6, 3))),
    "interpolate": (interpolate, (random(2, 3, 4, 5, 6), random(2, 7, 3))),
    "warp_nearest": (warp_nearest, (random(2, 4, 8, 8), AROUND[[0, 1]], AROUND, 2 * random(4, 8, 8), 1)),
}
PRODUCTS = ("w2c", "turned", "project", "rays", "sources.project", "patch_rays", "composite", "warp_nearest")
"""Those with matrix products, which autocast would round."""


def run(name: str, function: Callable[..., Any]) -> list[Tensor]:
    keywords = {"opaque": False} if name == "rendering_weights" else {}
    out = function(*GEOMETRY[name][1], **keywords)
    values = out if isinstance(out, tuple) else [out] if isinstance(out, Tensor) else vars(out).values()
    return [x for x in values if isinstance(x, Tensor)]


@pytest.mark.parametrize("name", GEOMETRY)
def test_no_function_of_geometry_sees_low_precision_inside_autocast(name: str) -> None:
    function = GEOMETRY[name][0]
    expected = run(name, function)
    with torch.autocast("cpu", torch.bfloat16), Float32Only():
        inside = run(name, function)
    assert expected and all(x.dtype == torch.float32 for x in inside)
    assert all(torch.equal(a, b) for a, b in zip(inside, expected, strict=True))


@pytest.mark.parametrize("name", PRODUCTS)
def test_without_the_decorator_it_would(name: str) -> None:
    plain = inspect.unwrap(GEOMETRY[name][0])
    assert plain is not GEOMETRY[name][0]
    refused = pytest.raises((AssertionError, RuntimeError))
    with refused, torch.autocast("cpu", torch.bfloat16), Float32Only():
        run(name, plain)


def test_all_geometry_is_decorated() -> None:
    """A new function in the modules of geometry is listed above, or has no tensor to round."""
    listed = {inspect.unwrap(function) for function, _ in GEOMETRY.values()}
    of_integers = {
        cameras.orbit,
        cameras.around,
        cameras.above_and_below,
        cameras.intrinsics,
        cameras.cat_cameras,
    }
    for module in (cameras, sources, volume_rendering, interpolation):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            at_home = inspect.unwrap(function).__module__ == module.__name__
            if at_home and not name.startswith("_") and function not in of_integers:
                assert inspect.unwrap(function) in listed, name
                assert inspect.unwrap(function) is not function, name


def test_a_function_without_autocast_keeps_the_precision_of_its_arguments() -> None:
    x = random(4, 4)

    @without_autocast
    def square(a: Tensor) -> Tensor:
        return a @ a

    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        inside = square(x)
        assert (x @ x).dtype == torch.bfloat16  # and autocast goes on after it
    assert inside.dtype == torch.float32 and torch.equal(inside, x @ x)


def test_an_orbit_in_bfloat16_is_the_orbit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the networks in bfloat16, the geometry of the whole orbit in float32."""
    photo = torch.zeros(64, 64, 4)
    photo[14:50, 20:44] = torch.tensor([0.8, 0.3, 0.2, 1.0])
    orbits = []
    for dtype in (torch.float32, torch.bfloat16):
        for module in (pixelnerf, mini):
            monkeypatch.setattr(module, "fast_dtype", lambda device, dtype=dtype: dtype)
        called: set[str] = set()
        if dtype == torch.bfloat16:
            forbid_low_precision(monkeypatch, called)
        objects, scenes = MiniModel.load(MINI), MiniModel.load(MINI_SCENE)
        assert scenes.dit is not None and scenes.dit.position.dtype == dtype
        one, two = objects(OrbitPhotos((photo,))), objects(OrbitPhotos((photo, photo.flip(1)), (0.0, 90.0)))
        on_white = as_images(OrbitPhotos((photo,)).as_views(scenes.size))
        clip = scenes.generate(on_white, orbit(1, size=scenes.size), orbit(3, size=scenes.size)[[1, 2]])
        orbits.append((one.rgb, one.alpha, two.rgb, two.alpha, clip.images / 2 + 0.5))
        assert not called or called > {"patch_rays", "project", "composite", "rays", "warp_nearest"}
    for exact, fast in zip(*orbits, strict=True):
        assert fast.dtype == torch.float32 and not torch.equal(exact, fast)
        assert float((exact - fast).abs().mean()) < 0.005
        assert float((exact - fast).abs().quantile(0.99)) < 0.06


def forbid_low_precision(monkeypatch: pytest.MonkeyPatch, called: set[str]) -> None:
    """Run every function of geometry under `Float32Only`, wherever it was imported to."""

    def strict(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            with Float32Only():
                return function(*args, **kwargs)

        return checked

    for function, _ in GEOMETRY.values():
        name = function.__name__
        if "." in function.__qualname__:  # of a class
            owner = {"Cameras": Cameras, "Sources": Sources}[function.__qualname__.split(".")[0]]
            checked: Any = strict(name, function)
            checked = property(checked) if name == "w2c" else checked
            monkeypatch.setattr(owner, name, staticmethod(checked) if owner is Sources else checked)
            continue
        for module in (pixelnerf, guide, mini, sources, volume_rendering):
            if getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, strict(name, function))
