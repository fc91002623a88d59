"""`v3d doctor` tells the truth about this machine, and about machines that lack things."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from v3d import cli, doctor
from v3d.capture import matting
from v3d.distribution import install_hint
from v3d.runtime import memory_bytes


def finding(diagnosis: doctor.Diagnosis, part: str) -> doctor.Finding:
    return next(f for f in diagnosis.machine + diagnosis.choices if f.part == part)


def test_this_machine(tmp_path):
    diagnosis = doctor.diagnose(tmp_path)
    cores = finding(diagnosis, "processor").uses
    if hasattr(os, "sched_getaffinity"):
        assert cores.startswith(f"{len(os.sched_getaffinity(0))} core")
    assert torch.__version__ in finding(diagnosis, "software").uses
    if not torch.cuda.is_available():
        assert "gsplat" not in finding(diagnosis, "splats").uses
    for model in ("mini model", "mini scenes"):
        assert finding(diagnosis, model).uses.startswith("ships with V3D")
    for one in diagnosis.machine + diagnosis.choices:
        assert one.state == "ok" or one.advice  # nothing is bad without a way out


def test_the_table_names_every_part(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    diagnosis = doctor.diagnose()
    for one in diagnosis.machine + diagnosis.choices:
        assert one.part in shown
        assert one.advice[:30] in shown  # extras in [brackets] are not taken for markup


def test_missing_packages_get_their_command(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    one = finding(doctor.diagnose(), "official weights")
    assert one.state == "could be better"
    assert "diffusers" in one.uses
    assert one.advice == install_hint("official")


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of PyTorch")
def test_a_driver_without_a_cuda_build(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    one = finding(doctor.diagnose(), "CUDA")
    assert one.state == "could be better"
    assert "built without CUDA" in one.advice


def test_a_wrong_setting_is_shown_not_raised(monkeypatch):
    monkeypatch.setenv("V3D_MATTING", "no-such-model")
    diagnosis = doctor.diagnose()
    assert finding(diagnosis, "cut-outs").state == "missing"
    assert "no-such-model" in finding(diagnosis, "cut-outs").advice


def test_matting_weights_are_named_with_file_and_folder(tmp_path, monkeypatch):
    """What the advice says is what finds the model: the package, then the file in the folder."""
    for name in ("V3D_MATTING", "U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    without = finding(doctor.diagnose(), "cut-outs")
    file = re.search(r"put (\S+\.onnx) ", without.advice).group(1)
    folder = Path(re.search(r"into (.+)$", without.advice).group(1))
    if find_spec("rembg") is None:
        assert install_hint("matting") in without.advice
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(matting, "find_spec", lambda name: object())
    assert "pip install" not in finding(doctor.diagnose(), "cut-outs").advice
    folder.mkdir()
    (folder / file).touch()
    found = finding(doctor.diagnose(), "cut-outs")
    assert found.state == "ok"
    assert found.uses.startswith(file.removesuffix(".onnx"))


def test_memory_is_plausible():
    total = memory_bytes()
    assert total is None or 1e8 < total < 1e14
