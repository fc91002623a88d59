"""What `v3d evaluate` can be asked. (Imports nothing heavy.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from v3d.settings import Device, PerceptualNetwork, Quality

OnObject = Callable[[str, int, int], None]
"""Called with the name of the object just done, the number done and the number in all."""

SamplerName = Literal["euler", "heun", "dpm_solver_2m"]
"""A sampler of `v3d.diffusion.edm`, by the name of its function."""


@dataclass(frozen=True)
class ObjectSource:
    """Where the test objects are.

    Attributes:
        corpus: packed corpus (.npz), or a folder of meshes (searched through).
        manifest: JSON list of objects with `id`, `file` or both, and optionally `split` and `real_scan`.
            Files are relative to `corpus` where this is a folder, else to the manifest. Needed to choose a
            split, and to tell the scans of a packed corpus apart; enough without `corpus`.
        split: only these objects of the manifest; "all" takes every one.
        real_scans: only real scans.
        limit: at most so many objects, evenly spread over the list; 0 takes all.
    """

    corpus: Path | None = None
    manifest: Path | None = None
    split: str = "test"
    real_scans: bool = False
    limit: int = 0


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is reconstructed, and how; every combination of the values that are given is measured.

    Attributes:
        views: "clean" true views, "perturbed" ones that disagree as generated views do: each a little
            shifted, brighter or darker, blurred and noisy.
        carving: first Gaussians on the visual hull, or (False) a blob of random ones.
        perceptual: fit with the perceptual loss, or without; by default as the quality has it.
        mesh: also make the hull's mesh, and the textured mesh of the surface.
        quality: of every stage, as in `v3d reconstruct`.
        seed: of every random choice.
    """

    views: tuple[Literal["clean", "perturbed"], ...] = ("clean",)
    carving: tuple[bool, ...] = (True,)
    perceptual: tuple[bool, ...] = ()
    mesh: bool = True
    quality: Quality = "standard"
    seed: int = 0


@dataclass(frozen=True)
class GenerationSettings:
    """How orbits are generated and judged.

    Attributes:
        photos: from how many photos orbits are generated, each number a row: 1 (the front), 2 (front and
            left), 3 (front, left and back) or 4 (front, left, back and right).
        elevation: degrees above the object's horizon that the photos, and the views, are taken from.
        steps: of the sampler; None takes the model's own number.
        guidance: of classifier-free guidance, 1 for none; None takes the model's own.
        seed: of the initial noise, and of the shapes.
        mesh: also build the shape of every method's views at this quality, as the product does, and compare
            it with the true mesh; "none" leaves that out.
    """

    photos: tuple[int, ...] = (1,)
    elevation: float = 0.0
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    mesh: Literal["none", "draft", "standard", "high"] = "draft"


@dataclass(frozen=True)
class AblationSettings:
    """What is varied, one thing at a time: the first value of every list is the base's, the others make rows.

    Attributes:
        model: "mini", folders of weights, or hub ids: to compare models that were trained differently.
        guidance: of classifier-free guidance, 1 for none; by default the model's own.
        steps: of the sampler; by default the model's own number.
        sampler: by default the model's own.
        orbit: what is reconstructed: the "true" views, "perturbed" ones that disagree as generated views do,
            or the "generated" ones of the base.
        views: so many views of the orbit, evenly spaced: 18, 9, 6, 3 or 2.
        photo: the photo of a generated orbit is trusted: the hull fills its silhouette, and it textures what
            it sees.
        carving: first Gaussians on the visual hull, or (False) a blob of random ones.
        perceptual: fit splats with the perceptual loss, or without; by default as the quality has it.
        refine: fit the mesh's texture to the views, or leave it as it was projected; by default as the
            quality has it.
        hull: also carve the generated orbits of all rows, and compare the hulls with the true mesh.
        mesh: also make the mesh of reconstructions.
        quality: of the reconstruction, as in `v3d reconstruct`.
        seed: of every random choice, one for all rows.
    """

    model: tuple[str, ...] = ("mini",)
    guidance: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    sampler: tuple[SamplerName, ...] = ()
    orbit: Literal["true", "perturbed", "generated"] = "true"
    views: tuple[int, ...] = (18,)
    photo: tuple[bool, ...] = (True,)
    carving: tuple[bool, ...] = (True,)
    perceptual: tuple[bool, ...] = ()
    refine: tuple[bool, ...] = ()
    hull: bool = True
    mesh: bool = True
    quality: Quality = "standard"
    seed: int = 0


@dataclass(frozen=True)
class EvaluateReconstruction:
    """True orbits -> splats and meshes, compared with the objects.

    Attributes:
        out: folder of `results.jsonl`, `report.json` and `report.md`; a started one is continued.
        objects: the test objects.
        settings: what is reconstructed, and how.
        perceptual_network: of the fits that use a perceptual loss.
        size: pixels of a view's side; by default the protocol's.
    """

    out: Path
    objects: ObjectSource = field(default_factory=ObjectSource)
    settings: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    perceptual_network: PerceptualNetwork = "vae"
    size: int | None = None


@dataclass(frozen=True)
class EvaluateGeneration:
    """True photos -> orbits, compared with the true orbits and with baselines.

    Attributes:
        out: folder of `results.jsonl`, `report.json` and `report.md`; a started one is continued.
        objects: the test objects.
        settings: photos, sampler and meshes.
        model: "mini", a folder of weights, or a hub id; "none" measures the baselines alone.
        train_corpus: packed corpus of the training objects, for the baseline 'nearest training object'.
        train_index: where its thumbnails are kept; by default `nearest.safetensors` in `out`.
        perceptual: also measure the perceptual distance with this network; None leaves it out.
        sheet: also draw a contact sheet of so many objects, good and bad ones, half of them real scans, from
            the last number of photos.
        shard: measure only part `shard[0]` of `shard[1]` of the objects, so that several processes share the
            work in one folder; the report is of all that is measured by then.
        size: pixels of a view's side; by default the protocol's.
        device: where the generator runs; all else runs on the CPU.
    """

    out: Path
    objects: ObjectSource = field(default_factory=ObjectSource)
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    model: str = "mini"
    train_corpus: Path | None = None
    train_index: Path | None = None
    perceptual: PerceptualNetwork | None = "lpips"
    sheet: int = 0
    shard: tuple[int, int] = (1, 1)
    size: int | None = None
    device: Device = "cpu"


@dataclass(frozen=True)
class EvaluateAblation:
    """One thing varied at a time, on the same objects and seeds: means, and paired differences to the base.

    Attributes:
        out: folder of the results, `report.json`, `report.md` and `curves.png`; a started one is continued.
        objects: the test objects.
        settings: what is varied.
        perceptual_network: of the fits that use a perceptual loss.
        size: pixels of a view's side; by default the protocol's.
        device: where the generator runs; all else runs on the CPU.
    """

    out: Path
    objects: ObjectSource = field(default_factory=ObjectSource)
    settings: AblationSettings = field(default_factory=AblationSettings)
    perceptual_network: PerceptualNetwork = "vae"
    size: int | None = None
    device: Device = "cpu"


@dataclass(frozen=True)
class EvaluateViews:
    """A folder of views against a folder of true ones.

    Attributes:
        views: a folder of posed views (`transforms.json`, or another format of `v3d reconstruct`).
        truth: another of them, with views of these cameras in this order.
        out: also write `report.json` and `report.md` here.
        perceptual: also measure the perceptual distance with this network; None leaves it out.
    """

    views: Path
    truth: Path
    out: Path | None = None
    perceptual: PerceptualNetwork | None = "lpips"


@dataclass(frozen=True)
class EvaluateAsset:
    """A mesh file against a true one: shape, and renders from held-out cameras.

    Attributes:
        mesh: a GLB, OBJ, PLY or STL file.
        truth: another of them.
        out: also write `report.json` and `report.md` here.
        alignment: "none" compares them as they stand; "ball" first centres each and scales it into the ball
            of radius 0.8; "icp" compares only their points, as tables of single-image reconstruction do,
            after the turn, scale and shift that bring the mesh nearest to the truth.
        size: pixels of a rendered view's side; by default the protocol's.
    """

    mesh: Path
    truth: Path
    out: Path | None = None
    alignment: Literal["none", "ball", "icp"] = "none"
    size: int | None = None


@dataclass(frozen=True)
class EvaluateConsistency:
    """How well the views of a folder agree on one object; needs no truth (MVGBench).

    The views of even and of odd numbers are fitted apart, and the two results compared.

    Attributes:
        views: a folder of posed views (`transforms.json`, or another format of `v3d reconstruct`), such as a
            run's folder.
        out: also write `report.json` and `report.md` here.
        quality: of the two fits, as in `v3d reconstruct`.
        colmap: also triangulate points under the views' cameras; needs the extra `colmap`.
        size: pixels of a test view's side.
        seed: of every random choice.
    """

    views: Positional[Path]
    out: Path | None = None
    quality: Quality = "standard"
    colmap: bool = False
    size: int = 256
    seed: int = 0


@dataclass(frozen=True)
class SceneEvaluationSettings:
    """How views of scenes are generated and fitted.

    Attributes:
        splats: also fit Gaussians, to the photos alone and with the generated views, and judge their renders.
        quality: of their fit, as in `v3d scene`.
        steps: of the sampler; None takes the model's own number.
        seed: of every random choice.
    """

    splats: bool = True
    quality: Quality = "draft"
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class EvaluateScenes:
    """New views of scenes from a few posed photos, compared with held-out ones.

    Attributes:
        scenes: folders of rendered scenes (`v3d render-scenes`), and captures: folders of posed photos.
        out: folder of `results.jsonl`, `report.json` and `report.md`; a started one is continued.
        settings: sampler and Gaussians.
        model: "mini-scene" or a folder of weights; "none" measures the baselines alone.
        sources: from how many photos views are generated, each number a case of its own.
        split: in place of `sources`, a published split of captures: a file such as pixelSplat's
            `evaluation_index_re10k.json`, which names captures by their folders, or SEVA's
            `train_test_split_3.json`, which is looked up in every capture's folder.
        perceptual: networks of perceptual distances.
        size: pixels of a view's side; by default the protocol's.
        limit: at most so many scenes, evenly spread over the list; 0 takes all.
        device: where the model runs; all else runs on the CPU.
    """

    scenes: Positional[tuple[Path, ...]]
    out: Path
    settings: SceneEvaluationSettings = field(default_factory=SceneEvaluationSettings)
    model: str = "mini-scene"
    sources: tuple[int, ...] = (1, 3, 6)
    split: Path | None = None
    perceptual: tuple[PerceptualNetwork, ...] = ("lpips", "vae")
    size: int | None = None
    limit: int = 0
    device: Device = "cpu"
