"""A client of `v3d app`, on this computer or another. It needs nothing but Python and imports nothing heavy.

>>> from v3d.client import Client
>>> client = Client("http://localhost:7860")
>>> job = client.wait(client.generate("cup.png", quality="draft"))
>>> client.download(job, "out")
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from v3d.errors import V3DError, in_words
from v3d.files import atomic

_BLOCK = 1 << 20
_HERE = ("localhost", "127.0.0.1", "::1")
_NO_PROXY = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class RemoteJob:
    """A job as the server told of it last.

    Attributes:
        id: its name on the server.
        kind: what it makes: generate, reconstruct, scene or texture.
        state: queued, running, done, failed or cancelled.
        stage, done, total: how far it is: `done` of `total` steps of a stage.
        reason: why it failed, in one sentence.
        warnings: what was guessed or left out, one sentence each.
        files: names of the results.
    """

    id: str
    kind: str
    state: str
    stage: str = ""
    done: int = 0
    total: int = 1
    reason: str = ""
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nothing happens to it any more."""
        return self.state in ("done", "failed", "cancelled")


OnJob = Callable[[RemoteJob], None]
"""Called with the job whenever it has moved on."""


class _UnreachableError(V3DError):
    """The server does not answer."""


@dataclass(frozen=True)
class Client:
    """Calls of one server.

    Every method raises V3DError, with the server's sentence, where the server refuses or cannot be reached.

    Attributes:
        url: of the server.
        token: where it was started with one.
        patience: seconds that a full queue is asked again, whenever it says to, and that `wait` waits for a
            server that is restarted.
        timeout: seconds that one answer may take.
    """

    url: str = "http://localhost:7860"
    token: str | None = field(default=None, repr=False)
    patience: float = 600.0
    timeout: float = 60.0

    def generate(
        self,
        photos: str | Path | Mapping[str, str | Path],
        *,
        masks: Mapping[str, str | Path] | None = None,
        finish: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> RemoteJob:
        """Ask for an asset of one to four photos.

        Args:
            photos: an image file of the front, or side (front, left, back, right) -> image file.
            masks: side -> an image that says where the object is in this side's photo.
            finish: what the mesh is made ready for, for example `{"purpose": "print", "size": "80mm"}`;
                its files are called finished/...
            settings: options of `v3d generate`, for example `quality="draft"`.
        """
        given = {f"{side}_mask": mask for side, mask in (masks or {}).items()}
        return self._create("generate", {**_sides(photos), **given}, settings, finish=finish)

    def reconstruct(
        self,
        views: str | Path,
        *,
        orbit: Mapping[str, Any] | None = None,
        finish: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> RemoteJob:
        """Ask for an asset of views of an object.

        Args:
            views: a folder or zip of photos and their cameras; with `orbit` a video, a folder or zip of
                pictures, or a picture with a grid of them.
            orbit: what is known of the cameras that the views lack, options of `v3d reconstruct --orbit`; {}
                where nothing is.
            finish: as `generate` takes it.
            settings: options of `v3d reconstruct`.
        """
        return self._create("reconstruct", {"views": views}, settings, orbit=orbit, finish=finish)

    def scene(self, photos: str | Path, **settings: Any) -> RemoteJob:
        """Ask for new views and Gaussians of a scene.

        Args:
            photos: a folder or zip of photos and their cameras.
            settings: options of `v3d scene`.
        """
        return self._create("scene", {"views": photos}, settings)

    def texture(
        self, mesh: str | Path, photos: str | Path | Mapping[str, str | Path], **settings: Any
    ) -> RemoteJob:
        """Ask for the texture of a given mesh.

        Args:
            mesh: a GLB, PLY, STL or OBJ file.
            photos: as `generate` takes them; or `{"views": ...}`, a folder or zip of photos with cameras.
            settings: options of `v3d texture`.
        """
        return self._create("texture", {"mesh": mesh, **_sides(photos)}, settings)

    def jobs(self, limit: int = 50) -> list[RemoteJob]:
        """The newest jobs, the newest first."""
        return [_job(answer) for answer in self._json("GET", f"/v1/jobs?limit={limit}")["jobs"]]

    def job(self, job: RemoteJob | str) -> RemoteJob:
        """The job, or the one of this id, as it is now."""
        return _job(self._json("GET", _path(job)))

    def wait(self, job: RemoteJob | str, on_progress: OnJob | None = None, every: float = 0.5) -> RemoteJob:
        """The job when it is done. A server that is restarted meanwhile is waited for.

        Args:
            job: or its id.
            on_progress: called whenever it has moved on.
            every: seconds between two looks.

        Raises:
            V3DError: also where the job fails or is cancelled, with the reason.
        """
        last, heard = None, time.monotonic()
        while True:
            try:
                now = self.job(job)
            except _UnreachableError:
                if time.monotonic() - heard > self.patience:
                    raise
                time.sleep(every)
                continue
            heard = time.monotonic()
            if on_progress is not None and now != last:
                on_progress(now)
            if now.state == "done":
                return now
            if now.has_ended:
                raise V3DError(now.reason or f"The job was {now.state}.")
            last = now
            time.sleep(every)

    def download(self, job: RemoteJob | str, folder: str | Path) -> list[Path]:
        """Fetch all results into a folder; the files, each whole or not there."""
        now = self.job(job)
        paths = []
        for name in now.files:
            own = name.removeprefix("finished/")
            if PurePosixPath(own).name != own or own in ("", ".", "..") or "\\" in own:
                raise V3DError(f"The server names a result {name!r}, which is no name of a file.")
            path = Path(folder) / name
            with (
                self._open("GET", f"{_path(now)}/files/{quote(name)}") as answer,
                atomic(path) as temporary,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file, _BLOCK)
            paths.append(path)
        return paths

    def cancel(self, job: RemoteJob | str) -> RemoteJob:
        """Stop a job that waits or runs; one that has ended stays as it is."""
        return _job(self._json("POST", f"{_path(job)}/cancel"))

    def remove(self, job: RemoteJob | str) -> None:
        """Remove a job that has ended, with its results."""
        with self._open("DELETE", _path(job)):
            pass

    def _create(
        self,
        kind: str,
        files: Mapping[str, str | Path],
        settings: Mapping[str, Any],
        **others: Mapping[str, Any] | None,
    ) -> RemoteJob:
        """Send a form: the files by field, folders as zips, settings and other fields as JSON."""
        given = {name: value for name, value in others.items() if value is not None}
        fields = {name: json.dumps(value) for name, value in {"settings": settings, **given}.items()}
        fields["kind"] = kind
        with tempfile.TemporaryDirectory(prefix="v3d-") as temporary:
            paths = {name: _file(Path(path), Path(temporary) / f"{name}.zip") for name, path in files.items()}
            return _job(self._json("POST", "/v1/jobs", _Form(paths, fields)))

    def _json(self, method: str, path: str, form: _Form | None = None) -> Any:
        with self._open(method, path, form) as answer:
            try:
                return json.loads(answer.read())
            except ValueError as error:
                raise V3DError(f"{self.url} answers with something else than V3D does.") from error

    def _open(self, method: str, path: str, form: _Form | None = None) -> HTTPResponse:
        """The answer to a request; a full queue is asked again when it says to.

        Raises:
            V3DError: the server refuses, or cannot be reached.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._ask(method, path, form)
            except HTTPError as error:
                with error:
                    sentence, pause = _sentence(error), _seconds(error.headers.get("Retry-After"))
                if error.code != 429 or time.monotonic() + pause > deadline:
                    raise V3DError(sentence) from None
                time.sleep(pause)
            except (OSError, HTTPException) as error:
                cause = error.reason if isinstance(error, URLError) else error
                if form is not None and isinstance(cause, (BrokenPipeError, ConnectionResetError)):
                    raise V3DError(f"{self.url} took no more of the files; are they too large?") from error
                raise _UnreachableError(f"{self.url} does not answer ({in_words(error)}).") from error

    def _ask(self, method: str, path: str, form: _Form | None) -> HTTPResponse:
        request = Request(self.url.rstrip("/") + path, method=method)
        if self.token is not None:
            request.add_header("Authorization", f"Bearer {self.token}".encode().decode("latin-1"))
        if form is not None:
            request.data = iter(form)
            request.add_header("Content-Type", f"multipart/form-data; boundary={form.boundary}")
            request.add_header("Content-Length", str(len(form)))
        opener = _NO_PROXY if urlsplit(self.url).hostname in _HERE else build_opener()
        answer: HTTPResponse = opener.open(request, timeout=self.timeout)
        return answer


class _Form:
    """A multipart form that is read from its files while it is sent."""

    def __init__(self, files: Mapping[str, Path], fields: Mapping[str, str]) -> None:
        self.boundary = secrets.token_hex(16)
        self._parts: list[bytes | Path] = []
        for name, value in fields.items():
            self._parts.append(self._head(name) + value.encode() + b"\r\n")
        for name, path in files.items():
            self._parts += [self._head(name, path.name), path, b"\r\n"]
        self._parts.append(f"--{self.boundary}--\r\n".encode())

    def __len__(self) -> int:
        return sum(part.stat().st_size if isinstance(part, Path) else len(part) for part in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            with part.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block

    def _head(self, name: str, filename: str | None = None) -> bytes:
        line = f'--{self.boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"'
        if filename is None:
            return f"{line}\r\n\r\n".encode()
        kind = "Content-Type: application/octet-stream"
        return f'{line}; filename="{_quoted(filename)}"\r\n{kind}\r\n\r\n'.encode()


def _sides(photos: str | Path | Mapping[str, str | Path]) -> Mapping[str, str | Path]:
    return {"front": photos} if isinstance(photos, (str, Path)) else photos


def _file(path: Path, packed: Path) -> Path:
    """The file that is sent: the path itself, or a zip of a folder, at `packed`."""
    if path.is_dir():
        with zipfile.ZipFile(packed, "w") as archive:  # photos do not get smaller
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(path))
        return packed
    if not path.is_file():
        raise V3DError(f"There is no file {path}.")
    return path


def _quoted(text: str) -> str:
    """A text that can stand between quotes of a header."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _path(job: RemoteJob | str) -> str:
    return f"/v1/jobs/{quote(job.id if isinstance(job, RemoteJob) else job, safe='')}"


def _job(answer: Any) -> RemoteJob:
    try:
        known = {name: answer[name] for name in ("id", "kind", "state", "stage", "done", "total", "reason")}
        return RemoteJob(**known, warnings=tuple(answer["warnings"]), files=tuple(answer["files"]))
    except (KeyError, TypeError) as error:
        raise V3DError("The server answers with something else than a job.") from error


def _sentence(error: HTTPError) -> str:
    """What the server says of its refusal."""
    try:
        return str(json.loads(error.read(_BLOCK))["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"The server answers {error.code} {error.reason}."


def _seconds(text: str | None) -> float:
    """What Retry-After says; a second where it says nothing."""
    return float(text) if text is not None and text.isdecimal() else 1.0
