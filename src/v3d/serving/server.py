"""The whole server: the desk, the runner, the calls, the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from v3d.distribution import own_version
from v3d.errors import V3DError
from v3d.serving import hunyuan, rest
from v3d.serving.desk import Desk, task_of
from v3d.serving.guard import Guard, Rules
from v3d.serving.resources import cores
from v3d.serving.runner import Limits, Runner
from v3d.serving.store import JobStore, QueueFullError
from v3d.serving.worker import AnyWorker, Worker
from v3d.settings import Format, GenerateSettings

FORMATS: tuple[Format, ...] = ("glb", "ply", "splat", "html")
"""Of jobs that do not say otherwise."""


def make_server(
    folder: Path,
    *,
    rules: Rules = Rules(),  # noqa: B008 (frozen)
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    settings: GenerateSettings = GenerateSettings(formats=FORMATS),  # noqa: B008 (frozen)
    workers: int | Sequence[AnyWorker] = 1,
) -> FastAPI:
    """The application; jobs run while it does.

    Args:
        folder: of the jobs.
        rules: who may ask.
        limits: what is taken.
        settings: of jobs that do not say otherwise.
        workers: jobs that run side by side, in processes that share this machine's cores; or the workers that
            carry jobs out (`v3d.serving.ray_worker`).

    Raises:
        V3DError: the folder cannot hold jobs.
    """
    store = JobStore(folder)
    if isinstance(workers, int):
        workers = [Worker(max(1, cores() // workers)) for _ in range(workers)]
    runner = Runner(store, task_of, workers=workers, limits=limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        runner.start()
        yield
        runner.stop()
        store.close()

    app = FastAPI(
        title="V3D",
        summary="Photos become 3D Gaussians and a textured mesh.",
        version=own_version() or "0",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.desk = Desk(store, limits, settings)
    app.add_exception_handler(QueueFullError, rest.busy)
    app.add_exception_handler(V3DError, rest.refused)
    app.add_exception_handler(RequestValidationError, rest.misspelt)
    app.include_router(rest.router)
    app.include_router(hunyuan.router, tags=["Hunyuan3D"])
    app.add_middleware(Guard, rules=rules)
    return app
