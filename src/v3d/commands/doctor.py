"""`v3d doctor`: what this machine has, what V3D will use of it, and what to install for more."""

from __future__ import annotations


def doctor() -> None:
    """Show what this machine has, which backends and weights V3D will use, and what to install for more."""
    from v3d.doctor import diagnose, show

    show(diagnose())
