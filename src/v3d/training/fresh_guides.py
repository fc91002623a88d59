"""Orbits and their guides for the video model, both made while it trains and kept on the training device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from v3d.cameras import ORBIT_VIEWS, orbit
from v3d.data.random_numbers import integer, uniform
from v3d.errors import V3DError
from v3d.networks.pixelnerf import PixelNeRF
from v3d.training.guides import GuidedViews, OrbitImages, images_of, recoloured_orbit, render_bytes
from v3d.training.processes import Processes
from v3d.training.recipe import VideoRecipe
from v3d.training.ring import OrbitRing, make_job, rows_in

_ANY_FRONT = 0.4  # share of the orbits that begin at another view than the photo framed by the law
_OTHER_STREAM = 1 << 61  # tells an orbit's choices here from those of its rendering


class FreshGuides:
    """Fresh orbits with guides from one photo or several (a `v3d.training.guides.Guides`).

    Orbit n has as many photos as entry n of the recipe's `source_counts` says, which repeat for ever.

    Attributes:
        size: pixels of a view's side, those that PixelNeRF reads.
        ring: the orbits.
    """

    def __init__(self, recipe: VideoRecipe, pixelnerf: PixelNeRF, processes: Processes, workers: int) -> None:
        """Find the meshes and make room; rendering begins with the first step.

        Args:
            recipe: what is trained, and how.
            pixelnerf: renders the guides, on the processes' device.
            processes: that train together.
            workers: processes that render for this one; 0 renders in it.

        Raises:
            V3DError: there are no meshes, memory is too small, or more views are asked for than an orbit has.
        """
        if max(recipe.views, recipe.all_views, *recipe.source_counts) > ORBIT_VIEWS:
            raise V3DError(f"An orbit has {ORBIT_VIEWS} views; --views and --all-views cannot be more.")
        self.size, self._counts, self._seed = pixelnerf.config.size, recipe.source_counts, recipe.seed
        self._pixelnerf, self._warps = pixelnerf, recipe.network.warps
        job, drawn = make_job(recipe.fresh, self.size, ORBIT_VIEWS, 0, recipe.seed), pixelnerf.config.drawn
        per_orbit = job.layout.nbytes + ORBIT_VIEWS * (4 * self.size**2 + 2 * drawn**2)
        # As many orbits of each number of photos: row and number agree on what that is.
        rows = rows_in(recipe.fresh.orbit_gigabytes, per_orbit) // len(self._counts) * len(self._counts)
        if recipe.fresh.first_orbits < len(self._counts):
            raise V3DError(
                f"--first-orbits is {recipe.fresh.first_orbits}; each of the {len(self._counts)} entries of"
                " --source-counts needs one."
            )
        self.ring = OrbitRing(job, rows, processes, workers)
        where, V = processes.device, ORBIT_VIEWS
        self._images = torch.empty(rows, V, 4, self.size, self.size, dtype=torch.uint8, device=where)
        self._depth = torch.empty(rows, V, drawn, drawn, dtype=torch.float16, device=where)
        self._frames = torch.zeros(rows, max(self._counts), dtype=torch.int64)  # of the photos, unturned

    def __len__(self) -> int:
        """Orbits that can be drawn: as many of each entry of `source_counts`."""
        return len(self.ring) // len(self._counts) * len(self._counts)

    def advance(self, step: int) -> None:
        """Take in the orbits that `step` waits for, and render their guides."""
        for number in self.ring.advance(step):
            row, g = number % self.ring.capacity, torch.Generator()
            g.manual_seed(_OTHER_STREAM + self._seed * 1_000_003 + number)
            front = integer(g, 1, ORBIT_VIEWS) if uniform(g, 0, 1) < _ANY_FRONT else 0
            frames = photo_frames(self._counts[number % len(self._counts)], g)
            self._frames[row, : len(frames)] = (torch.tensor(frames) + front) % ORBIT_VIEWS
            cameras = orbit(ORBIT_VIEWS).to(self._images.device)
            photos = images_of(self._photos(row, len(frames)).images)
            images, depth = render_bytes(self._pixelnerf, photos, cameras[list(frames)], cameras)
            self._images[row], self._depth[row] = images, depth

    def _photos(self, row: int, count: int) -> OrbitImages:
        """The photos of an orbit; a single one of its own front is framed as photos are."""
        frames = self._frames[row, :count]
        orbits = self.ring.orbits
        images = orbits.images[row, frames]
        if count == 1 and not frames[0]:
            images = orbits.photo[row][None]
        return OrbitImages(images, (frames - frames[0]) % ORBIT_VIEWS)

    def draw(self, i: int, sources: int, views: int, generator: torch.Generator) -> GuidedViews:
        """`views` random views (all 18 in order) of orbit i, or of one near it that has `sources` photos."""
        n = len(self._counts)
        entries = [k for k, count in enumerate(self._counts) if count == sources]
        row = i - i % n + entries[i % len(entries)]
        frames = torch.arange(ORBIT_VIEWS)
        if views < ORBIT_VIEWS:
            frames = torch.randperm(ORBIT_VIEWS, generator=generator)[:views]
        front = int(self._frames[row, 0])
        images = self.ring.orbits.images[row, (frames + front) % ORBIT_VIEWS]
        guide, depth = self._images[row, frames], self._depth[row, frames]
        photos = self._photos(row, sources)
        opaque = self._pixelnerf.config.opaque
        return recoloured_orbit(
            photos, OrbitImages(images, frames), guide, depth, self._warps, generator, opaque=opaque
        )

    def close(self) -> None:
        """End the processes that render."""
        self.ring.close()


def photo_frames(count: int, generator: torch.Generator) -> Sequence[int]:
    """Views of an orbit that are photos: the front; then back, left and right in any order; then any."""
    sides = [ORBIT_VIEWS // 2, integer(generator, 4, 6), integer(generator, 13, 15)]
    order = torch.randperm(3, generator=generator).tolist()
    rest = [k for k in torch.randperm(ORBIT_VIEWS, generator=generator).tolist() if k and k not in sides]
    return [0, *(sides[k] for k in order), *rest][:count]
