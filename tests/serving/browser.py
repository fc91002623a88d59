"""A server of the page in a process of its own, and real Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
SECONDS = 240_000
"""Milliseconds that a job or a picture may take on a busy machine."""
_SERVER = """
import sys, uvicorn
from pathlib import Path
from v3d.serving.page import mount
from v3d.serving.server import FORMATS, make_server
from v3d.settings import GenerateSettings
folder, port, until = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
app = make_server(folder, settings=GenerateSettings(quality="draft", until=until, formats=FORMATS))
mount(app, app.state.desk, folder, mcp=True)
uvicorn.run(app, port=port, log_level="warning", timeout_graceful_shutdown=3)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path, port: int, until: str = "mesh") -> Iterator[str]:
    """The address of a server whose jobs are drafts that go until a stage."""
    command = [sys.executable, "-c", _SERVER, str(folder), str(port), until]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://localhost:{port}"
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser that can draw WebGL."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


def opened(browser: Any, address: str, **options: Any) -> Any:
    """The page in a context of its own, a user's; it keeps what it asked for from elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True, **options)
    context.set_default_timeout(90_000)
    page = context.new_page()
    page.elsewhere = []

    def note(request: Any) -> None:
        if not request.url.startswith((f"{address}/", "data:", "blob:")):
            page.elsewhere.append(request.url)

    page.on("request", note)
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("#v3d-make")
    return page


def upload(page: Any, selector: str, file: Path) -> None:
    """Put a photo into a slot and wait until it is there."""
    page.set_input_files(f"{selector} input[type=file]", file)
    page.wait_for_selector(f"{selector} img")


def status(page: Any, words: str) -> str:
    """The status line as soon as it has these words."""
    page.wait_for_function(
        "words => document.querySelector('#v3d-status')?.innerText.includes(words)",
        arg=words,
        timeout=SECONDS,
    )
    text: str = page.inner_text("#v3d-status")
    return text
