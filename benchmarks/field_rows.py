"""The field's own rows for V3D's orbits: MVGBench's consistency, COLMAP's points, meshes aligned by ICP.

python benchmarks/field_rows.py CORPUS.npz --manifest index.json --out rows [--limit 6] [--colmap]

Orbits of test objects: true views at the generator's size and at 256 px, and generated ones from one and from
four true photos. Of each: the consistency of its even and odd views, with --colmap also the points that
COLMAP triangulates under the orbit's cameras, and the draft's mesh, as the product builds it, beside the true
one after alignment. Results are kept object by object in --out, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from v3d.diffusion.generator import Generator
from v3d.errors import V3DError
from v3d.evaluation.aligned import AlignedProtocol, compare_aligned
from v3d.evaluation.assets import MeasuredBuild, Metrics
from v3d.evaluation.consistency import ConsistencyProtocol, consistency
from v3d.evaluation.generation import method_of, views_at
from v3d.evaluation.photos import TruePhotos
from v3d.evaluation.protocol import GENERATION
from v3d.evaluation.report import ObjectResult, markdown
from v3d.evaluation.runner import evaluate_objects
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import TestObject
from v3d.evaluation.triangulation import triangulated
from v3d.networks.perceptual import Perceptual
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS
from v3d.views import Views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--quality", choices=tuple(PRESETS), default="draft", help="of the two fits")
    parser.add_argument("--photos", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--colmap", action="store_true")
    arguments = parser.parse_args()

    generator, network = Generator.from_pretrained("mini", device="cpu"), Perceptual.load("lpips")
    protocol, fits = ConsistencyProtocol(), PRESETS[arguments.quality]

    def row(orbit: Views, inputs: BuildInputs | None, item: TestObject) -> Metrics:
        start = time.process_time()
        scores = consistency(orbit, protocol, fits, network)
        scores["seconds"] = time.process_time() - start
        if arguments.colmap:
            scores |= triangulated(orbit)
        if inputs is not None:
            scores |= compare_aligned(MeasuredBuild(inputs, PRESETS["draft"], 0).shape, item.mesh)
        return scores

    def measure(item: TestObject) -> ObjectResult:
        truth, large = GENERATION.true_orbit(item), replace(GENERATION, size=256).true_orbit(item)
        photos = TruePhotos(item, GENERATION, truth)
        result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
        result.scores["true views, 256 px"] = row(large, None, item)
        result.scores["true views, 128 px"] = row(truth, BuildInputs(truth), item)
        for count in arguments.photos:
            try:
                given = photos(count)
                views = generator(given, seed=0).resized(GENERATION.size, GENERATION.size)
                inputs = BuildInputs(views, given.among(views.cameras), generator.agrees_in_colour)
                result.scores[method_of(count)] = row(views_at(truth.cameras, views), inputs, item)
            except V3DError as error:
                result.failures[method_of(count)] = str(error)
        return result

    header = {
        "protocol": protocol.as_dict(),
        "aligned": asdict(AlignedProtocol()),
        "orbit": GENERATION.as_dict(),
        "fits": asdict(fits),
        "photos": arguments.photos,
        "colmap": arguments.colmap,
        "model_hash": generator.hash,
    }
    source = ObjectSource(arguments.corpus, arguments.manifest, limit=arguments.limit)
    show = lambda name, done, total: print(f"{done}/{total} {name}", file=sys.stderr, flush=True)  # noqa: E731
    report = evaluate_objects(arguments.out, "The field's rows", source, header, measure, show)
    print(markdown(report))


if __name__ == "__main__":
    main()
