"""State dicts in the released ("sgm") layout, made from diffusers and transformers networks.

Written against the construction order of the original networks (a running block counter), not against
the converter: the one is a check of the other.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from v3d.diffusion.official.networks import clip_network, unet_network, vae_network

FULL_UNET = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": (5, 10, 20, 20),
    "num_frames": 18,
}
FULL_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
FULL_CLIP = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
TINY_UNET = FULL_UNET | {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (64, 64),
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "num_attention_heads": (1, 1),
}
TINY_VAE = FULL_VAE | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
TINY_CLIP = FULL_CLIP | {
    "hidden_size": 160,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 32,
    "projection_dim": 24,
}

_RESNET_LEAVES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def random_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random values for every parameter of a network on the meta device, exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(p.shape, generator=generator) * 0.1 + (1.0 if "norm" in name else 0.0))
        .half()
        .float()
        for name, p in network.state_dict().items()
    }


def tiny_release(folder: Path) -> tuple[Path, Path, dict[str, dict[str, Tensor]]]:
    """Write `V3D.ckpt` and `svd_xt.safetensors` of tiny random networks; paths, weights by component."""
    unet = random_weights(unet_network(TINY_UNET), 0)
    vae = random_weights(vae_network(TINY_VAE), 1)
    vae["quant_conv.weight"] = torch.eye(8)[:, :, None, None]
    vae["quant_conv.bias"] = torch.zeros(8)
    clip = random_weights(clip_network(TINY_CLIP), 2)
    v3d, svd = folder / "V3D.ckpt", folder / "svd_xt.safetensors"
    released = {f"model.diffusion_model.{k}": v for k, v in unet_to_sgm(unet, TINY_UNET).items()}
    torch.save({"state_dict": released, "global_step": 7}, v3d)
    other = {f"model.diffusion_model.{k}": v * 0 for k, v in unet_to_sgm(unet, TINY_UNET).items()}
    other |= {f"first_stage_model.{k}": v for k, v in vae_to_sgm(vae, TINY_VAE).items()}
    tower = "conditioner.embedders.0.open_clip.model"
    other |= {f"{tower}.visual.{k}": v for k, v in clip_to_openclip(clip).items()}
    other |= {f"{tower}.logit_scale": torch.ones(()), f"{tower}.ln_final.weight": torch.ones(3)}
    other["conditioner.embedders.3.encoder.quant_conv.bias"] = torch.ones(8)
    save_file({k: v.contiguous() for k, v in other.items()}, svd)
    return v3d, svd, {"unet": unet, "vae": vae, "image_encoder": clip}


def unet_to_sgm(weights: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """A diffusers UNet state dict under the names the original constructor would give."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
    modules = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    counter = 1
    for level in range(levels):
        for layer in range(layers):
            modules[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{counter}.0"
            if attends[level]:
                modules[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{counter}.1"
            counter += 1
        if level < levels - 1:
            modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{counter}.0.op"
            counter += 1
    counter = 0
    for block, attend in enumerate(reversed(attends)):
        for layer in range(layers + 1):
            modules[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{counter}.0"
            if attend:
                modules[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{counter}.1"
            if layer == layers and block < levels - 1:
                modules[f"up_blocks.{block}.upsamplers.0"] = f"output_blocks.{counter}.{2 if attend else 1}"
            counter += 1
    return {_unet_name(name, modules): tensor for name, tensor in weights.items()}


def _unet_name(name: str, modules: dict[str, str]) -> str:
    module = max((m for m in modules if name.startswith(m + ".")), key=len)
    rest = name[len(module) + 1 :]
    if ".resnets." in module:
        part, _, leaf = rest.partition(".")
        if part != "time_mixer":
            leaf, _, kind = leaf.rpartition(".")
            rest = ("time_stack." if part == "temporal_res_block" else "") + f"{_RESNET_LEAVES[leaf]}.{kind}"
    elif ".attentions." in module:
        rest = rest.replace("temporal_transformer_blocks", "time_stack")
        rest = rest.replace("time_pos_embed.linear_1", "time_pos_embed.0").replace("linear_2", "2")
    return f"{modules[module]}.{rest}"


def vae_to_sgm(weights: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """A diffusers VAE state dict under the original's names; `quant_conv` has none there."""
    levels, out = len(config["block_out_channels"]), {}
    for name, tensor in weights.items():
        side, *path = name.split(".")
        if side == "quant_conv":
            continue
        kind = path[-1]
        match path:
            case ["conv_norm_out", _]:
                new = f"norm_out.{kind}"
            case ["time_conv_out", _]:
                new = f"conv_out.time_mix_conv.{kind}"
            case ["mid_block", "attentions", "0", *rest, _]:
                leaf = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}[
                    ".".join(rest)
                ]
                new = f"mid.attn_1.{leaf}.{kind}"
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            case ["mid_block", "resnets", index, *rest]:
                new = f"mid.block_{int(index) + 1}.{_vae_leaf(rest)}"
            case ["down_blocks", level, "resnets", index, *rest]:
                new = f"down.{level}.block.{index}.{_vae_leaf(rest)}"
            case ["up_blocks", block, "resnets", index, *rest]:
                new = f"up.{levels - 1 - int(block)}.block.{index}.{_vae_leaf(rest)}"
            case ["down_blocks", level, "downsamplers", "0", "conv", _]:
                new = f"down.{level}.downsample.conv.{kind}"
            case ["up_blocks", block, "upsamplers", "0", "conv", _]:
                new = f"up.{levels - 1 - int(block)}.upsample.conv.{kind}"
            case _:
                new = ".".join(path)
        out[f"{side}.{new}"] = tensor
    return out


def _vae_leaf(path: list[str]) -> str:
    if path == ["time_mixer", "mix_factor"]:
        return "mix_factor"
    if path[0] == "temporal_res_block":
        return f"time_stack.{_RESNET_LEAVES[path[1]]}.{path[2]}"
    leaf, kind = path[-2:]
    return f"{leaf.replace('conv_shortcut', 'nin_shortcut')}.{kind}"


def clip_to_openclip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformers CLIP image tower under OpenCLIP's names."""
    tower = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    out = {
        "class_embedding": tower["embeddings.class_embedding"],
        "positional_embedding": tower["embeddings.position_embedding.weight"],
        "conv1.weight": tower["embeddings.patch_embedding.weight"],
        "proj": tower["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        out[f"ln_pre.{kind}"] = tower[f"pre_layrnorm.{kind}"]
        out[f"ln_post.{kind}"] = tower[f"post_layernorm.{kind}"]
    layers = 1 + max(int(name.split(".")[2]) for name in tower if name.startswith("encoder.layers."))
    for i in range(layers):
        old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            out[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                [tower[f"{old}.self_attn.{c}_proj.{kind}"] for c in "qkv"]
            )
            out[f"{new}.attn.out_proj.{kind}"] = tower[f"{old}.self_attn.out_proj.{kind}"]
            out[f"{new}.ln_1.{kind}"] = tower[f"{old}.layer_norm1.{kind}"]
            out[f"{new}.ln_2.{kind}"] = tower[f"{old}.layer_norm2.{kind}"]
            out[f"{new}.mlp.c_fc.{kind}"] = tower[f"{old}.mlp.fc1.{kind}"]
            out[f"{new}.mlp.c_proj.{kind}"] = tower[f"{old}.mlp.fc2.{kind}"]
    return out
