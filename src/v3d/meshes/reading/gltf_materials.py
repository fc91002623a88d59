"""Materials of glTF -> the layers of colour they show without a light."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.reading.named_files import read_image
from v3d.meshes.reading.parts import Array, Layer

_WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_GLASS = ("KHR_materials_transmission", "KHR_materials_diffuse_transmission")
_CUT_OF_BLENDED = 0.5


@dataclass
class Materials:
    """The materials of a document.

    Attributes:
        notes: what is shown otherwise than the file says, in the order it came up.
    """

    document: GltfDocument
    notes: dict[str, None] = field(default_factory=dict)
    _images: dict[int, Array | None] = field(default_factory=dict)

    def surface(
        self, index: Any, uv_sets: dict[int, Array], faces: Array
    ) -> tuple[tuple[Layer, ...], float | None, bool]:
        """A material's layers, the least alpha of what is surface, and whether it says a colour at all.

        Args:
            index: of the material, or None.
            uv_sets: [P, 2] by number.
            faces: [F, 3].
        """
        material = {} if index is None else self.document.item("materials", index)
        extensions = material.get("extensions") or {}
        old = extensions.get("KHR_materials_pbrSpecularGlossiness")
        base = material.get("pbrMetallicRoughness") or {}
        texture, factor = base.get("baseColorTexture"), base.get("baseColorFactor")
        if old is not None:
            texture, factor = old.get("diffuseTexture", texture), old.get("diffuseFactor", factor)
        layers = [self._layer(texture, _colour(factor, 4), uv_sets, faces)]
        strength = (extensions.get("KHR_materials_emissive_strength") or {}).get("emissiveStrength", 1.0)
        light = _colour(material.get("emissiveFactor", (0, 0, 0)), 3) * float(strength)
        if light.any() and "KHR_materials_unlit" not in extensions:
            layers.append(self._layer(material.get("emissiveTexture"), np.append(light, 1), uv_sets, faces))
            self.notes["light that its surfaces give off is added to their colour"] = None
        if any(name in extensions for name in _GLASS):
            self.notes["glass is shown as solid"] = None
        coloured = factor is not None or light.any() or any(layer.image is not None for layer in layers)
        if layers[0].image is None and texture is not None and layers[0].factor[:3].min() == 1:
            coloured = bool(light.any())  # all that is left of a texture that is missing is white
        return tuple(layers), self._cutoff(material, layers[0]), bool(coloured)

    def _cutoff(self, material: dict[str, Any], base: Layer) -> float | None:
        mode = material.get("alphaMode", "OPAQUE")
        if mode == "MASK":
            return float(material.get("alphaCutoff", 0.5))
        if mode != "BLEND":
            return None
        most = float(base.factor[3]) * (1 if base.image is None else float(base.image[..., 3].max()) / 255)
        least = float(base.factor[3]) * (1 if base.image is None else float(base.image[..., 3].min()) / 255)
        if least < 1:
            self.notes["what is half transparent is shown as solid or left out"] = None
        return max(_CUT_OF_BLENDED * most, 1e-3)

    def _layer(self, texture: Any, factor: Array, uv_sets: dict[int, Array], faces: Array) -> Layer:
        """One texture with its factor; without the texture where it cannot be had."""
        if texture is None:
            return Layer(factor)
        transform = (texture.get("extensions") or {}).get("KHR_texture_transform") or {}
        number = transform.get("texCoord", texture.get("texCoord", 0))
        entry = self.document.item("textures", texture["index"])
        image = self._image(entry)
        if image is None:
            return Layer(factor)
        if number not in uv_sets:
            self.notes[f"a texture has no coordinates (set {str(number)[:9]}) and is left out"] = None
            return Layer(factor)
        uv = _transformed(uv_sets[number], transform)
        sampler = self.document.item("samplers", entry["sampler"]) if "sampler" in entry else {}
        wrap = tuple(_WRAPS.get(sampler.get(key, 10497), "repeat") for key in ("wrapS", "wrapT"))
        return Layer(factor, image, uv[faces], (wrap[0], wrap[1]))

    def _image(self, texture: dict[str, Any]) -> Array | None:
        """The pixels of a texture, or None and a note."""
        extensions = texture.get("extensions") or {}
        webp = extensions.get("EXT_texture_webp") or {}
        index = webp.get("source", texture.get("source"))
        if index is None:
            index = (extensions.get("KHR_texture_basisu") or {}).get("source")
        if index is None:
            self.notes["a texture names no image and is left out"] = None
            return None
        if index not in self._images:
            entry = self.document.item("images", index)
            name = str(entry.get("uri", ""))[:80] if "bufferView" not in entry else ""
            name = "" if name.startswith("data:") else name
            try:
                uri = str(entry.get("uri", ""))
                data = bytes(self.document.view(entry["bufferView"])) if not uri else self.document.file(uri)
                self._images[index] = read_image(data)
            except V3DError as error:
                self.notes[f"the texture {name or index} is left out: {error}"] = None
                self._images[index] = None
        return self._images[index]


def _colour(value: Any, channels: int) -> Array:
    """A factor's numbers, 1 where there are none."""
    if value is None:
        return np.ones(channels)
    colour = np.array([float(x) for x in value])
    if colour.shape != (channels,) or not np.isfinite(colour).all():
        raise V3DError("a material's colour is not made of finite numbers")
    return colour.clip(0, 1)


def _transformed(uv: Array, transform: dict[str, Any]) -> Array:
    """KHR_texture_transform: scaled, then turned, then moved."""
    angle = float(transform.get("rotation", 0))
    scale, offset = np.array(transform.get("scale", (1, 1))), np.array(transform.get("offset", (0, 0)))
    c, s = math.cos(angle), math.sin(angle)
    moved: Array = uv * scale @ np.array([[c, -s], [s, c]]) + offset
    return moved
