"""What training reads: orbits or scenes, each opened, checked, sampled and measured in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from v3d.cameras import ORBIT_VIEWS, Cameras
from v3d.data.orbit_shards import OrbitShards, check_cameras, recoloured
from v3d.data.scene_shards import SceneShards
from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF
from v3d.training.guides import Guides, OrbitGuides, SceneGuides
from v3d.training.recipe import DataKind
from v3d.weights import MINI, MINI_SCENE


@dataclass(frozen=True)
class Clip:
    """Source photos and the views that are asked for.

    Attributes:
        sources: [N, 4, S, S] in [0, 1], colour on white, then alpha.
        source_cameras: of the N sources.
        targets: [V, 4, S, S] in [0, 1], colour on white, then alpha.
        target_cameras: of the V targets.
        depth: [V, h, w] camera depth of the targets, 0 where unknown; None where the data have no depth.
    """

    sources: Tensor
    source_cameras: Cameras
    targets: Tensor
    target_cameras: Cameras
    depth: Tensor | None = None


class Examples(Protocol):
    """Rendered data of one kind, by index.

    Attributes:
        opaque: every ray ends on something; else what is left is the white ground.
        shipped: folder of the models of this kind that ship with V3D.
        metrics: names of the shape errors that say something about these data, "alpha" or "depth".
    """

    opaque: bool
    shipped: Path
    metrics: tuple[str, ...]

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        ...

    def __len__(self) -> int: ...

    def clip(self, i: int, sources: int, views: int, generator: torch.Generator, *, any_front: bool) -> Clip:
        """A random training clip of example i.

        Args:
            i: number of the example.
            sources: photos, where the data have a choice.
            views: targets.
            generator: of all choices.
            any_front: also begin orbits at other views than the photo's.

        Raises:
            V3DError: the example has too few views.
        """
        ...

    def whole_clip(self, i: int) -> Clip:
        """Example i for validation: fixed sources, and every other view as a target."""
        ...

    def path_views(self, clip: Clip) -> int:
        """How many of a whole clip's targets, from the first, lie on one camera path."""
        ...

    def guides(self, pixelnerf: PixelNeRF, warps: int, counts: Sequence[int], views: int) -> Guides:
        """The data with PixelNeRF's views of them, which are rendered unless they are kept already.

        Args:
            pixelnerf: renders the guides.
            warps: photos that are warped to every view.
            counts: numbers of photos that will be asked for.
            views: most views that will be asked for together.

        Raises:
            V3DError: the data have too few views, differ in size, or cannot be read.
        """
        ...


class OrbitExamples:
    """Orbits of objects (`v3d render`): the source is the photo, silhouettes say enough of the shape."""

    opaque: bool = False
    shipped: Path = MINI
    metrics: tuple[str, ...] = ("alpha",)

    def __init__(self, folder: Path) -> None:
        """Open the orbits of a folder.

        Raises:
            V3DError: there are none, or they are not 18 views at elevation 0.
        """
        self._shards = OrbitShards(folder)
        for path, shard in self._shards.shards():
            check_cameras(path, shard)

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return self._shards.photo(0).shape[1]

    def __len__(self) -> int:
        return len(self._shards)

    def clip(self, i: int, sources: int, views: int, generator: torch.Generator, *, any_front: bool) -> Clip:
        """Random views of an object in a random appearance: of its orbit, and from around if there are some.

        The source is the photo. With `any_front`, half of the time it is any other view of the orbit,
        turned to the front: eighteen times the fronts, though not quite framed as photos are.
        """
        data = self._shards
        cameras, front = data.cameras(i), 0
        if any_front and torch.rand((), generator=generator) < 0.5:
            front = int(torch.randint(ORBIT_VIEWS, (), generator=generator))
        frames = torch.randperm(len(cameras), generator=generator)[:views]
        photo = data.view(i, front) if front else data.photo(i)
        images = torch.stack([photo, *(data.view(i, k) for k in frames.tolist())])
        images, mirrored = recoloured(images, generator)
        targets = cameras[frames].turned(-front * 360 / ORBIT_VIEWS)
        x = images.permute(0, 3, 1, 2).float() / 255
        return Clip(x[:1], cameras[0], x[1:], targets.mirrored() if mirrored else targets)

    def whole_clip(self, i: int) -> Clip:
        """All views of an object from its photo."""
        views, photo = self._shards[i]
        x = torch.cat([photo[None], views]).permute(0, 3, 1, 2).float() / 255
        cameras = self._shards.cameras(i)
        return Clip(x[:1], cameras[0], x[1:], cameras)

    def path_views(self, clip: Clip) -> int:
        """The orbit's own views; what follows them is from around."""
        return ORBIT_VIEWS

    def guides(self, pixelnerf: PixelNeRF, warps: int, counts: Sequence[int], views: int) -> OrbitGuides:
        """The orbits and the guides of all their views.

        Raises:
            V3DError: more views are asked for than an orbit has, orbits differ in size, or none can be read.
        """
        if views > ORBIT_VIEWS:
            raise V3DError(f"An orbit has {ORBIT_VIEWS} views; --views and --all-views cannot be more.")
        return OrbitGuides(self._shards, pixelnerf, warps)


class SceneExamples:
    """Scenes (`v3d render-scenes`): any views are sources of the others, and depths are stated."""

    opaque: bool = True
    shipped: Path = MINI_SCENE
    metrics: tuple[str, ...] = ("depth",)

    def __init__(self, folder: Path) -> None:
        """Open the scenes of a folder.

        Raises:
            V3DError: there are none.
        """
        self._shards = SceneShards(folder)

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return self._shards[0][0].shape[2]

    def __len__(self) -> int:
        return len(self._shards)

    def clip(self, i: int, sources: int, views: int, generator: torch.Generator, *, any_front: bool) -> Clip:
        """`sources` random views of a scene as sources, `views` others as targets.

        Raises:
            V3DError: the scene has too few views.
        """
        rgb, cameras, depth = self._shards[i]
        if len(rgb) < sources + views:
            raise V3DError(
                f"A scene in {self._shards.folder} has {len(rgb)} views, too few for {sources} photos and"
                f" {views} others: lower --source-counts or --views, or render longer clips."
            )
        chosen = torch.randperm(len(rgb), generator=generator)[: sources + views]
        x, new = _opaque(rgb[chosen]), chosen[sources:]
        return Clip(x[:sources], cameras[chosen[:sources]], x[sources:], cameras[new], depth[new].float())

    def whole_clip(self, i: int) -> Clip:
        """A scene's other views from its first, middle and last one."""
        rgb, cameras, _ = self._shards[i]
        last = len(rgb) - 1
        given = [0, last // 2, last]
        others = [k for k in range(len(rgb)) if k not in given]
        x = _opaque(rgb)
        return Clip(x[given], cameras[given], x[others], cameras[others])

    def path_views(self, clip: Clip) -> int:
        """All of them."""
        return len(clip.targets)

    def guides(self, pixelnerf: PixelNeRF, warps: int, counts: Sequence[int], views: int) -> SceneGuides:
        """The scenes, and the guides of one choice of views for each number of photos.

        Raises:
            V3DError: the scenes have too few views.
        """
        return SceneGuides(self._shards, pixelnerf, warps, counts, views)


def open_examples(kind: DataKind, folder: Path) -> Examples:
    """The data of a folder, of the kind that a recipe states.

    Raises:
        V3DError: the folder holds no such data, or data that the models do not learn.
    """
    kinds: dict[DataKind, type[OrbitExamples] | type[SceneExamples]] = {
        "orbits": OrbitExamples,
        "scenes": SceneExamples,
    }
    return kinds[kind](folder)


def _opaque(rgb: Tensor) -> Tensor:
    """uint8 [V, H, W, 3] -> [V, 4, H, W] in [0, 1] with alpha 1."""
    x = rgb.permute(0, 3, 1, 2).float() / 255
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)
