"""Files of Gaussians against programs of others: gsply; under node three.js, splat-transform, the validator.

The parts of node are found where NODE_PATH says:
npm install three@0.187 gltf-validator @playcanvas/splat-transform
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_scenes import cloud

from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import SH_DC
from v3d.splats.files.read import read_splats
from v3d.splats.files.write import write_splats
from v3d.splats.gaussians import Splats, rotations


def same(found: Splats, expected: Splats) -> None:
    """Equal within the steps of all formats, in any order."""
    nearest = torch.cdist(expected.means.double(), found.means.double()).argmin(1)
    assert len(found) == len(expected) == len(nearest.unique())
    found = found[nearest]
    assert (found.means - expected.means).abs().max() < 2e-3
    assert (found.log_scales - expected.log_scales).abs().max() < 1 / 30
    assert (found.opacity - expected.opacity).abs().max() < 1 / 100
    assert (found.rgb - expected.rgb).abs().max() < 1 / 100
    worst = expected.scales.amax(-1)[:, None, None] ** 2
    assert ((covariances(found) - covariances(expected)).abs() / worst).max() < 0.08


def covariances(splats: Splats) -> torch.Tensor:
    half = rotations(splats.quats) * splats.scales[:, None]
    return half @ half.mT


def of_gsply(data: object, axes: str) -> Splats:
    arrays = [torch.from_numpy(np.array(getattr(data, n))) for n in ("means", "quats", "scales")]
    opacities = torch.from_numpy(np.array(data.opacities))  # type: ignore[attr-defined]
    colours = torch.from_numpy(np.array(data.sh0))  # type: ignore[attr-defined]
    return turned(Splats(*arrays, opacities, 0.5 + SH_DC * colours), axes, WORLD)


@pytest.mark.parametrize(("axes", "ending"), [("RDF", ".ply"), ("RDF", ".compressed.ply"), ("RUB", ".spz")])
def test_gsply_reads_what_is_written(tmp_path: Path, axes: str, ending: str) -> None:
    gsply = pytest.importorskip("gsply")
    write_splats(tmp_path / f"a{ending}", cloud(300))
    data = (gsply.read_spz if ending == ".spz" else gsply.plyread)(tmp_path / f"a{ending}")
    same(of_gsply(data, axes), cloud(300))


@pytest.mark.parametrize("kind", ["ply", "compressed", "spz-3", "spz-4"])
def test_what_gsply_writes_is_read(tmp_path: Path, kind: str) -> None:
    gsply = pytest.importorskip("gsply")
    axes = "RUB" if "spz" in kind else "RDF"
    splats = turned(cloud(300), WORLD, axes)
    quats = torch.nn.functional.normalize(splats.quats, dim=-1)
    harmonics = np.full((300, 3, 3), 0.1, np.float32)
    parts = [splats.means, splats.log_scales, quats, splats.logit_opacity, (splats.rgb - 0.5) / SH_DC]
    arrays = [part.numpy() for part in parts]
    path = tmp_path / ("a.compressed.ply" if kind == "compressed" else f"a.{kind[:3]}")
    if "spz" in kind:
        pytest.importorskip("zstandard")
        names = ("means", "scales", "quats", "opacities", "sh0")
        data = gsply.GSData(**dict(zip(names, arrays, strict=True)), shN=harmonics)
        gsply.write_spz(path, data, version=int(kind[-1]))
    else:
        gsply.plywrite(path, *arrays, harmonics, compressed=kind == "compressed")
    found = read_splats(path)
    same(found.splats, cloud(300))
    assert found.notes[0].startswith("Its spherical harmonics of degree 1 to 1 were left out")


def node(script: str, *arguments: object) -> object:
    """What a module of node prints, as JSON; skips where node or one of its parts is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    done = subprocess.run(
        ["node", "-e", script, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    if "Cannot find module" in done.stderr:
        pytest.skip("a part of node is missing (see the top of this file)")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


VALIDATE = """
const fs = require('fs'), validator = require('gltf-validator');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(r => console.log(JSON.stringify(r.issues)));
"""


def test_khronos_validator_finds_no_error(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.glb", cloud(100))
    issues = node(VALIDATE, tmp_path / "a.glb")
    assert isinstance(issues, dict)
    # The validator of today does not know the extension, nor the attributes that it names.
    errors = [issue for issue in issues["messages"] if issue["severity"] == 0]
    unknown = [issue for issue in errors if "/attributes/KHR_gaussian_splatting:" in issue["pointer"]]
    assert len(unknown) == 4 and errors == unknown, errors
    assert {issue["code"] for issue in unknown} == {"MESH_PRIMITIVE_INVALID_ATTRIBUTE"}


PLAYCANVAS = """
const { spawnSync } = require('child_process');
const program = require.resolve('@playcanvas/splat-transform').replace(/dist.*/, 'bin/cli.mjs');
const done = spawnSync('node', [program, '-w', process.argv[1], process.argv[2]]);
process.stderr.write(done.stderr);
console.log(done.status);
"""


@pytest.mark.parametrize("ending", [".compressed.ply", ".sog", ".splat", ".spz"])
def test_playcanvas_reads_what_is_written(tmp_path: Path, ending: str) -> None:
    write_splats(tmp_path / f"a{ending}", cloud(300))
    assert node(PLAYCANVAS, tmp_path / f"a{ending}", tmp_path / "b.ply") == 0
    same(read_splats(tmp_path / "b.ply").splats, cloud(300))


@pytest.mark.parametrize("ending", [".compressed.ply", ".sog", ".spz", ".glb"])
def test_what_playcanvas_writes_is_read(tmp_path: Path, ending: str) -> None:
    write_splats(tmp_path / "a.ply", cloud(300))
    assert node(PLAYCANVAS, tmp_path / "a.ply", tmp_path / f"b{ending}") == 0
    same(read_splats(tmp_path / f"b{ending}").splats, cloud(300))


THREE = """
const fs = require('fs'), path = require('path');
const base = path.dirname(require.resolve('three')) + '/../examples/jsm/loaders/';
const bytes = fs.readFileSync(process.argv[1]);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
(async () => {
  let geometry;
  if (process.argv[2] === '.glb') {
    const { GLTFLoader } = await import(base + 'GLTFLoader.js');
    const { GLTFGaussianSplatLoaderExtension } =
      await import(base + 'GLTFGaussianSplatLoaderExtension.js');
    const loader = new GLTFLoader();
    loader.register(parser => new GLTFGaussianSplatLoaderExtension(parser));
    geometry = (await loader.parseAsync(buffer, '')).scene.children[0].splatGeometry;
  } else {
    const name = {'.ply': 'GaussianSplatPLYLoader', '.spz': 'SPZLoader', '.splat': 'SPLATLoader'}
      [process.argv[2]];
    const module = await import(base + name + '.js');
    geometry = await new module[name]().parse(buffer);
  }
  const out = {};
  for (const [name, attribute] of Object.entries(geometry.attributes))
    out[name] = Array.from(attribute.array);
  console.log(JSON.stringify(out));
})().catch(error => { console.error(error); process.exit(1); });
"""


@pytest.mark.parametrize(
    ("axes", "ending"), [("RDF", ".ply"), ("RDF", ".splat"), ("RUB", ".spz"), ("LUF", ".glb")]
)
def test_three_reads_what_is_written(tmp_path: Path, axes: str, ending: str) -> None:
    write_splats(tmp_path / f"a{ending}", cloud(100))
    found = node(THREE, tmp_path / f"a{ending}", ending)
    assert isinstance(found, dict)
    expected = turned(cloud(100), WORLD, axes)
    place = torch.tensor(found["position"]).reshape(-1, 3)
    order = torch.cdist(expected.means.double(), place.double()).argmin(1)
    assert (place[order] - expected.means).abs().max() < 1e-3
    x, y, z = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 2, 1, 2, 2]), expected.scales.amax(-1)
    covariance = torch.tensor(found["covariance"]).reshape(-1, 6)[order]
    assert ((covariance - covariances(expected)[:, x, y]).abs().amax(-1) / z**2).max() < 0.08
    colour = torch.tensor(found["color"]).reshape(-1, 4)[order] / 255
    assert (colour - torch.cat([expected.rgb, expected.opacity[:, None]], -1)).abs().max() < 0.02
