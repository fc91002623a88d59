"""A real Ray cluster of two nodes: every item once, whatever dies; what a node lacks is told."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shapes import Draw
from v3d.digests import file_digest
from v3d.errors import V3DError
from v3d.serving.batch import local_pools, run_batch
from v3d.serving.manifest import Item, read_manifest
from v3d.serving.worker import Progress
from v3d.settings import GenerateSettings

ray = pytest.importorskip("ray")
VIEWS = GenerateSettings(until="views", quality="draft")


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of a node with two cores and one with a core and a GPU (which nobody looks at)."""
    from ray.cluster_utils import Cluster

    from v3d.serving.ray_worker import connect

    eager = {"worker_niceness": 0}  # by default they give way to everything else on the machine
    head = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "_system_config": eager}
    cluster = Cluster(True, head_node_args=head)
    cluster.add_node(num_cpus=1, num_gpus=1)
    yield connect(cluster.address, tmp_path_factory.mktemp("shared"))
    ray.shutdown()
    cluster.shutdown()


def test_what_cannot_work_is_told_before_anything_begins(tmp_path: Path) -> None:
    from v3d.serving.ray_worker import connect

    with pytest.raises(V3DError, match="run this on a machine of the cluster"):
        connect("ray://host:10001", tmp_path)
    for address in ("127.0.0.1:1", "nonsense", "127.0.0.1:99999999"):
        with pytest.raises(V3DError, match=f"no Ray cluster at {address}:"):
            connect(address, tmp_path)


def process(worker: Any) -> int:
    """The process of a worker that has nothing to do yet."""
    return int(ray.get(worker._actor.__ray_call__.remote(lambda actor: os.getpid())))


def test_two_pools_make_every_item_once_though_one_is_killed(joined: Any, draw: Draw, tmp_path: Path) -> None:
    for number in range(3):
        draw(f"in/{number}.png", 20.0 + number)
    items = read_manifest(tmp_path / "in", VIEWS)
    items[2] = dataclasses.replace(items[2], settings=dataclasses.replace(VIEWS, until="mesh"))
    items.append(Item("bad", {0.0: Path(__file__)}, VIEWS))
    pools = joined.pools(None, items=len(items))
    assert [len(pool.workers) for pool in pools] == [1, 2]  # a GPU; three cores, one of which goes with it
    victim = process(pools[0].workers[0])
    stages: Counter[tuple[str, str]] = Counter()

    def on_progress(name: str, progress: Progress) -> None:
        nonlocal victim
        if progress.done == 0:
            stages[name, progress.stage] += 1
        if victim and (name, progress.stage) == ("1", "views"):
            os.kill(victim, signal.SIGKILL)
            victim = 0

    ended: list[str] = []
    records = run_batch(
        items,
        tmp_path / "out",
        pools=pools,
        on_progress=on_progress,
        on_item=lambda r, *_: ended.append(r.name),
    )
    assert [(record.name, record.code) for record in records] == [("0", 0), ("1", 0), ("2", 0), ("bad", 2)]
    assert sorted(ended) == ["0", "1", "2", "bad"] and not victim
    assert stages["1", "views"] == 2  # before and after its death
    assert stages["0", "views"] == stages["2", "views"] == stages["2", "mesh"] == 1
    assert "mesh.glb" in records[2].files and "is not an image" in records[3].reason
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name.endswith((".png", ".part"))]

    here = run_batch(items[:1], tmp_path / "here", pools=local_pools(1, items=1))
    assert (here[0].key, here[0].files) == (records[0].key, records[0].files)
    for file in (file for file in here[0].files if (tmp_path / "here/0" / file).is_file()):
        assert file_digest(tmp_path / "here/0" / file) == file_digest(tmp_path / "out/0" / file)


def test_a_server_has_a_cluster_behind_it(joined: Any, draw: Draw, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from v3d.serving.server import make_server

    workers = joined.workers(None)
    assert len(workers) == 1 and workers[0]._options["num_gpus"] == 1
    server = make_server(tmp_path / "out", settings=VIEWS, workers=workers)
    with TestClient(server, base_url="http://localhost") as client:
        pid = process(workers[0])
        answers = [
            client.post("/v1/jobs", files={"front": draw(f"{i}.png", 20.0 + i).read_bytes()}) for i in (0, 1)
        ]
        jobs = [f"/v1/jobs/{answer.json()['id']}" for answer in answers]
        with client.stream("GET", jobs[0] + "/events") as stream:
            for line in stream.iter_lines():
                if pid and '"views"' in line:
                    os.kill(pid, signal.SIGKILL)
                    pid = 0
        with client.stream("GET", jobs[1] + "/events") as stream:
            assert [line for line in stream.iter_lines() if '"done"' in line]
        states = [client.get(job).json() for job in jobs]
        assert not pid and [state["state"] for state in states] == ["done", "done"]
        assert client.get(states[0]["files"]["preview.png"]).content[:4] == b"\x89PNG"
