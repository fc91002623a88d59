"""Raw photos -> `Capture`: their cameras, found by structure from motion (the optional package pycolmap)."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from v3d.capture.colmap import read_colmap
from v3d.capture.photo_files import SUFFIXES
from v3d.capture.posed import Capture
from v3d.distribution import install_hint
from v3d.errors import V3DError

_MIN_PHOTOS = 3


def list_photos(folder: Path) -> list[Path]:
    """The image files of `folder`, or of its `images/`, by name."""
    for place in (folder / "images", folder):
        if place.is_dir():
            files = sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
            if files:
                return files
    return []


def pose_photos(folder: str | Path) -> Capture:
    """Find the cameras of a folder's photos; nothing is written into it.

    The world's axes and unit are arbitrary. Photos of one make and size are taken to share one lens (one
    focal length, one radial coefficient). Photos that do not fit to the others are left out, with a remark.

    Raises:
        V3DError: pycolmap is not installed, there are too few photos, or they do not fit together.
    """
    files = list_photos(Path(folder))
    if len(files) < _MIN_PHOTOS:
        raise V3DError(
            f"{folder} has {len(files)} photos; at least {_MIN_PHOTOS} are needed to find their cameras."
        )
    try:
        import pycolmap
    except ImportError as error:
        raise V3DError(
            f"{folder} has photos but no cameras: {install_hint('colmap')} (pycolmap) to find them, or give "
            "a transforms.json or a COLMAP model."
        ) from error
    pycolmap.logging.minloglevel = 2  # errors only
    pycolmap.set_random_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        database, photos = work / "database.db", files[0].parent
        names = [file.name for file in files]
        # One thread and a seed where they decide: the same photos give the same cameras, so that runs resume.
        pycolmap.extract_features(
            database,
            photos,
            image_names=names,
            camera_mode=pycolmap.CameraMode.AUTO,
            reader_options=pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL"),
            extraction_options=pycolmap.FeatureExtractionOptions(num_threads=1),
        )
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = 0
        pycolmap.match_exhaustive(database, verification_options=verification)
        options = pycolmap.IncrementalPipelineOptions(
            min_model_size=_MIN_PHOTOS, num_threads=1, random_seed=0
        )
        models = pycolmap.incremental_mapping(database, photos, work, options)
        if not models:
            raise V3DError(
                f"The photos of {folder} do not fit together; take more of them, with more overlap and "
                "texture."
            )
        best = max(models.values(), key=lambda model: model.num_reg_images())
        best.write_binary(work)
        capture = read_colmap(work, root=photos)
    posed = {photo.file.name for photo in capture.photos}
    if not (lost := [name for name in names if name not in posed]):
        return capture
    remark = f"{len(lost)} of the {len(names)} photos do not fit to the others and are left out, "
    return replace(capture, remarks=(*capture.remarks, f"{remark}{lost[0]} among them."))
