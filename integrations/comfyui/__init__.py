"""V3D as nodes of ComfyUI: photos become a MESH and a SPLAT of ComfyUI's own types."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
