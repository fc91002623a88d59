"""V3D as an extension of Modly: a photo's bytes in, the path of a textured GLB out."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.generators.base import BaseGenerator, GenerationCancelled  # Modly's own

_SHARES = {"views": 30, "hull": 10, "splats": 30, "surface": 10, "mesh": 15}  # of 100, about
_PARAMS = ("quality", "faces", "elevation", "seed")


class V3DGenerator(BaseGenerator):
    """What Modly asks of a model. The weights are in the package, so there is nothing to download."""

    MODEL_ID = "v3d"
    DISPLAY_NAME = "V3D"
    VRAM_GB = 0

    def is_downloaded(self) -> bool:
        """Always."""
        return True

    def load(self) -> None:
        """Import what takes time; weights are read when they are used."""
        import v3d.objects.pipeline

        self._model = v3d.objects.pipeline.generate

    def generate(
        self,
        image_bytes: bytes | list[bytes],
        params: dict[str, Any],
        progress_cb: Callable[[int, str], None] | None = None,
        cancel_event: threading.Event | None = None,
    ) -> Path:
        """Make a mesh of a photo.

        Args:
            image_bytes: of the photo's file; of several the front, left, back and right.
            params: those of the manifest.
            progress_cb: called with percent and what is done now.
            cancel_event: set where the user does not want it any more.

        Raises:
            GenerationCancelled: it was.
            v3d.V3DError: the photo or a parameter cannot be used.
        """
        import v3d
        from v3d.serving.options import with_options

        chosen = {name: params[name] for name in _PARAMS if name in params}
        settings = with_options(v3d.GenerateSettings(formats=("glb",)), chosen)
        percent = 0

        def on_progress(stage: str, done: int, total: int) -> None:
            nonlocal percent
            if cancel_event is not None and cancel_event.is_set():
                raise GenerationCancelled()
            before = sum(share for name, share in _SHARES.items() if _comes_before(name, stage))
            percent = max(percent, min(99, before + _SHARES.get(stage, 0) * done // max(total, 1)))
            if progress_cb is not None:
                progress_cb(percent, stage)

        photos = [image_bytes] if isinstance(image_bytes, bytes) else image_bytes
        with tempfile.TemporaryDirectory(prefix="v3d-") as folder:
            sides = {}
            for number, data in enumerate(photos[:4]):
                sides[90.0 * number] = Path(folder) / f"photo{number}"
                sides[90.0 * number].write_bytes(data)
            asset = v3d.generate(sides, folder, settings, name="asset", on_progress=on_progress)
            self.outputs_dir.mkdir(parents=True, exist_ok=True)
            path = Path(self.outputs_dir) / f"v3d_{time.time_ns()}.glb"
            shutil.copyfile(asset.folder / "mesh.glb", path)
        if progress_cb is not None:
            progress_cb(100, "done")
        return path


def _comes_before(name: str, stage: str) -> bool:
    order = list(_SHARES)
    return stage in order and order.index(name) < order.index(stage)
