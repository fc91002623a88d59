"""Runs in Blender: asks a server for meshes as add-ons do, and says as JSON what stands in the scene.

blender -b --factory-startup --python-exit-code 3 --python as_addons_do.py -- ADDRESS PHOTO OUT

Written for these tests. Add-ons for Hunyuan3D's server send such requests, import what comes back, and after
texturing copy the place of the object that was selected onto the new one.
"""

import base64
import json
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import bpy
import numpy

for alias, kind in {"bool": bool, "int": int, "float": float, "object": object}.items():
    if alias not in numpy.__dict__:  # Blender 3.4's glTF add-on is older than Debian's numpy
        setattr(numpy, alias, kind)

ADDRESS, PHOTO, OUT = sys.argv[sys.argv.index("--") + 1 :]
SETTINGS = {"octree_resolution": 256, "num_inference_steps": 20, "guidance_scale": 5.5}


def ask(**request):
    """What the server answers to /generate: status and bytes."""
    sent = json.dumps({**SETTINGS, **request}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(f"{ADDRESS}/generate", sent, headers))
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    return answer.status, answer.read()


def imported(glb):
    """The object that a GLB brings into the scene."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.glb"
        path.write_bytes(glb)
        bpy.ops.import_scene.gltf(filepath=str(path))
    return next(thing for thing in bpy.context.selected_objects if thing.type == "MESH")


def facts(thing):
    """What a test wants to know of an object."""
    bpy.context.view_layer.update()
    corners = [thing.matrix_world @ vertex.co for vertex in thing.data.vertices]
    material = thing.data.materials[0] if thing.data.materials else None
    images = [] if material is None else [n.image for n in material.node_tree.nodes if n.type == "TEX_IMAGE"]
    return {
        "name": thing.name,
        "low": [min(corner[axis] for corner in corners) for axis in range(3)],
        "high": [max(corner[axis] for corner in corners) for axis in range(3)],
        "place": [list(row) for row in thing.matrix_world],
        "vertices": len(corners),
        "polygons": len(thing.data.polygons),
        "images": [list(image.size) for image in images],
        "colour": mean_colour(images[0]) if images else None,
        "parent": thing.parent.name if thing.parent else None,
    }


def mean_colour(image):
    pixels = numpy.array(image.pixels[:]).reshape(-1, image.channels)
    return numpy.median(pixels[:, :3], 0).tolist()


def select(thing):
    bpy.ops.object.select_all(action="DESELECT")
    thing.select_set(True)
    bpy.context.view_layer.objects.active = thing


def selected_glb():
    """The selected object as an add-on exports it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "selected.glb"
        bpy.ops.export_scene.gltf(filepath=str(path), use_selection=True)
        return path.read_bytes()


def main():
    bpy.ops.object.select_all(action="SELECT")
    bpy.ops.object.delete()
    told = {}
    image = base64.b64encode(Path(PHOTO).read_bytes()).decode()
    refused = ask(text="a cat", texture=True)
    told["text"] = [refused[0], refused[1].decode()]
    refused = ask(image="no", texture=True)
    told["wrong"] = [refused[0], refused[1].decode()]
    made = imported(ask(image=image, texture=True, face_count=2000)[1])
    told["made"] = facts(made)
    told["white"] = facts(imported(ask(image=image, texture=False, face_count=2000)[1]))

    made.rotation_mode = "XYZ"
    made.location, made.rotation_euler, made.scale = (2.0, -1.0, 0.5), (0.0, 0.0, 0.6), (1.5, 1.5, 1.5)
    made.name = "moved"
    bpy.context.view_layer.update()
    select(made)
    told["moved"] = facts(made)
    glb = selected_glb()
    Path(OUT).with_name("sent.glb").write_bytes(glb)
    status, answer = ask(image=image, mesh=base64.b64encode(glb).decode(), texture=True)
    if status == 200:
        Path(OUT).with_name("textured.glb").write_bytes(answer)
        new = imported(answer)
        told["textured"] = facts(new)
        new.rotation_mode = "XYZ"
        new.location, new.rotation_euler, new.scale = made.location, made.rotation_euler, made.scale
        told["placed"] = facts(new)
    else:
        told["refused"] = [status, answer.decode()]
    Path(OUT).write_text(json.dumps(told))


main()
