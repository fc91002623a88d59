"""`v3d doctor` tells the truth about this machine, and about machines that lack things."""

from __future__ import annotations

import os

import pytest
import torch

from v3d import doctor


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
    for one in diagnosis.machine + diagnosis.choices:
        assert one.state == "ok" or one.advice  # nothing is bad without a way out


def test_the_table_names_every_part(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    doctor.doctor()
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
    assert one.advice == 'pip install "v3d[official]"'


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of PyTorch")
def test_a_driver_without_a_cuda_build(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    one = finding(doctor.diagnose(), "CUDA")
    assert one.state == "could be better"
    assert "built without CUDA" in one.advice


def test_a_wrong_setting_is_told_not_raised(monkeypatch):
    monkeypatch.setenv("V3D_MATTING", "no-such-model")
    diagnosis = doctor.diagnose()
    assert finding(diagnosis, "cut-outs").state == "missing"
    assert "no-such-model" in finding(diagnosis, "cut-outs").advice
    assert not diagnosis.can_run


def test_memory_is_plausible():
    total = doctor.memory_bytes()
    assert total is None or 1e8 < total < 1e14
