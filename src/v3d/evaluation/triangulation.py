"""What structure from motion finds in views whose cameras are known (the optional package pycolmap).

Features that show one point of one solid meet in it. Views that disagree have few that do, and those meet
badly. Nothing learned judges here, so nothing is guessed into place.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from v3d.cameras import Cameras
from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.evaluation.assets import Metrics
from v3d.views import Views

LEAST_VIEWS = 3
"""Views that see a point: two agree on a wrong one whenever it lies on the other's line of sight."""
LEAST_POINTS = 15
"""Points that a registered view sees: COLMAP's own least number of matches of a pair."""


def triangulated(views: Views) -> Metrics:
    """Points triangulated by COLMAP under the views' own cameras, which stay where they are.

    SIFT features, matched between all pairs and checked by two-view geometry; one thread and one seed, so
    that the same views give the same numbers.

    Args:
        views: of the size at which features are sought; small views have few.

    Returns:
        `colmap.registered`: share of the views that see at least `LEAST_POINTS` points; `colmap.points`: how
        many there are, each seen by `LEAST_VIEWS` views or more; `colmap.error`: their mean reprojection
        error in pixels, nan where there is none.

    Raises:
        V3DError: pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise V3DError(f"COLMAP's points need pycolmap: {install_hint('colmap')}.") from error
    pycolmap.logging.minloglevel = 3  # a pair without matches is a result here, no error
    pycolmap.set_random_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        photos, database = work / "photos", work / "database.db"
        photos.mkdir()
        for i, rgb in enumerate(views.rgb):
            pixels = (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
            Image.fromarray(pixels).save(photos / f"{i:05d}.png")
        pycolmap.extract_features(
            database,
            photos,
            camera_mode=pycolmap.CameraMode.PER_IMAGE,
            reader_options=pycolmap.ImageReaderOptions(camera_model="PINHOLE"),
            extraction_options=pycolmap.FeatureExtractionOptions(num_threads=1),
        )
        model = _known_cameras(pycolmap, database, views.cameras)
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = 0
        pycolmap.match_exhaustive(database, verification_options=verification)
        options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0)
        model = pycolmap.triangulate_points(model, database, photos, work, options=options)
        points = [p for p in model.points3D.values() if p.track.length() >= LEAST_VIEWS]
        seen = Counter(element.image_id for p in points for element in p.track.elements)
        return {
            "colmap.registered": sum(count >= LEAST_POINTS for count in seen.values()) / len(views),
            "colmap.points": float(len(points)),
            "colmap.error": float(np.mean([p.error for p in points])) if points else float("nan"),
        }


def _known_cameras(pycolmap: Any, database: Path, cameras: Cameras) -> Any:
    """A reconstruction of the database's images with the given cameras, which the database is also told."""
    w2c = cameras.to("cpu").w2c.double().numpy()
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as file:
        for image in file.read_all_images():
            i = int(Path(image.name).stem)
            camera = file.read_camera(image.camera_id)
            K = cameras.K[i].double().tolist()
            camera.params = np.array([K[0][0], K[1][1], K[0][2], K[1][2]])
            camera.has_prior_focal_length = True
            file.update_camera(camera)
            model.add_camera_with_trivial_rig(camera)
            pose = pycolmap.Rigid3d(w2c[i, :3])
            model.add_image_with_trivial_frame(image, pose)
    return model
