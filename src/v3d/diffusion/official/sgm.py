"""The key layout of the released checkpoints ("sgm"), and how it maps to diffusers and transformers.

V3D's UNet, SVD's VAE and the OpenCLIP image tower are the same networks as
`UNetSpatioTemporalConditionModel`, `AutoencoderKLTemporalDecoder` and `CLIPVisionModelWithProjection`;
only the names, and the layout of a few tensors, differ. Each component has two functions here: one that
reads its configuration off the tensor shapes, and one that renames a state dict. Names that no rule
knows are left as they are, so a strict comparison with the network's own names finds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "conditioner.embedders.0.open_clip.model.visual."

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TEMPORAL_RESNET = {f"time_stack.{old}": f"temporal_res_block.{new}" for old, new in _RESNET.items()}
_UNET_RESNET = {**{old: f"spatial_res_block.{new}" for old, new in _RESNET.items()}, **_TEMPORAL_RESNET}
_UNET_ATTENTION = {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}
_VAE_ENDS = {"norm_out": "conv_norm_out", "conv_out.time_mix_conv": "time_conv_out"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_ENCODER_RESNET = {"nin_shortcut": "conv_shortcut"}
_DECODER_RESNET = {
    "mix_factor": "time_mixer.mix_factor",
    "nin_shortcut": "spatial_res_block.conv_shortcut",
    **{name: f"spatial_res_block.{name}" for name in ("norm1", "conv1", "norm2", "conv2")},
    **_TEMPORAL_RESNET,
}
_CLIP_ENDS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1": "vision_model.embeddings.patch_embedding",
    "ln_pre": "vision_model.pre_layrnorm",  # transformers' own spelling
    "ln_post": "vision_model.post_layernorm",
}
_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


# --- UNet ---


def unet_config(weights: Mapping[str, Tensor], head_channels: int = 64) -> dict[str, Any]:
    """Arguments of `UNetSpatioTemporalConditionModel` for the UNet in `weights` (sgm names, no prefix).

    Raises:
        KeyError: a tensor that fixes the configuration is not there.
    """
    levels, layers = _unet_depth(weights)
    first = [1 + level * (layers + 1) for level in range(levels)]
    widths = tuple(weights[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in first)
    attends = [f"input_blocks.{i}.1.proj_in.weight" in weights for i in first]
    context = weights[f"input_blocks.{first[attends.index(True)]}.1.transformer_blocks.0.attn2.to_k.weight"]
    embedded = weights["label_emb.0.0.weight"].shape[1]
    down = tuple("CrossAttnDownBlockSpatioTemporal" if a else "DownBlockSpatioTemporal" for a in attends)
    up = tuple("CrossAttnUpBlockSpatioTemporal" if a else "UpBlockSpatioTemporal" for a in reversed(attends))
    return {
        "sample_size": 64,
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": widths,
        "addition_time_embed_dim": embedded // 3,
        "projection_class_embeddings_input_dim": embedded,
        "layers_per_block": layers,
        "cross_attention_dim": context.shape[1],
        "num_attention_heads": tuple(width // head_channels for width in widths),
        "num_frames": 18,
    }


def unet_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sgm names (no prefix) -> diffusers names; one to one, tensors as they are."""
    _, layers = _unet_depth(weights)
    return {_unet_name(name, layers): weights[name] for name in weights}


def use_original_norms(unet: nn.Module) -> None:
    """Give every residual block of a UNet the original's GroupNorm epsilon, 1e-5, in place.

    diffusers builds most of them with 1e-6, which costs 1.7e-5 of agreement with the original network.
    """
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm) and "_res_block." in name:
            module.eps = 1e-5


def _unet_depth(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Number of levels, and of residual blocks a level: a downsampler ends every level but the last."""
    downsamplers = sorted(
        int(match[1])
        for name in weights
        if (match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", name))
    )
    if not downsamplers:
        raise KeyError("input_blocks.3.0.op.weight")
    return len(downsamplers) + 1, downsamplers[0] - 1


def _unet_name(name: str, layers: int) -> str:
    if renamed := _swap(name, _UNET_ENDS):
        return renamed
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        index, rest = int(match[1]), match[2]
        if index == 1:
            return f"mid_block.attentions.0.{_swap(rest, _UNET_ATTENTION) or rest}"
        return f"mid_block.resnets.{index // 2}.{_swap(rest, _UNET_RESNET) or rest}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if not match:
        return name
    down, index, module, rest = match[1] == "input", int(match[2]), int(match[3]), match[4]
    block, layer = divmod(index - 1 if down else index, layers + 1)
    prefix = f"{'down' if down else 'up'}_blocks.{block}"
    if rest.startswith("op."):
        return f"{prefix}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"{prefix}.upsamplers.0.{rest}"
    if module == 0:
        return f"{prefix}.resnets.{layer}.{_swap(rest, _UNET_RESNET) or rest}"
    return f"{prefix}.attentions.{layer}.{_swap(rest, _UNET_ATTENTION) or rest}"


# --- VAE ---


def vae_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `AutoencoderKLTemporalDecoder` for the VAE in `weights` (sgm names, no prefix).

    Raises:
        KeyError: a tensor that fixes the configuration is not there.
    """
    levels, layers = (1 + max(found, default=-1) for found in zip(*_vae_blocks(weights), strict=True))
    widths = tuple(weights[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
    return {
        "in_channels": weights["encoder.conv_in.weight"].shape[1],
        "out_channels": weights["decoder.conv_out.weight"].shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    }


def vae_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sgm names (no prefix) -> diffusers names; adds the identity `quant_conv` that sgm does not have."""
    levels = 1 + max((level for level, _ in _vae_blocks(weights)), default=-1)
    out = {}
    for name in weights:
        tensor = weights[name]
        renamed = _vae_name(name, levels)
        # the bottleneck's attention is written with 1x1 convolutions
        out[renamed] = tensor[:, :, 0, 0] if ".attentions." in renamed and tensor.ndim == 4 else tensor
    moments = weights["encoder.conv_out.weight"]
    channels = moments.shape[0]
    identity = torch.eye(channels, dtype=moments.dtype, device=moments.device)
    out["quant_conv.weight"] = identity[:, :, None, None]
    out["quant_conv.bias"] = identity.new_zeros(channels)
    return out


def _vae_blocks(weights: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """(level, index) of every residual block of the encoder's way down."""
    pattern = r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight"
    found = [(int(m[1]), int(m[2])) for name in weights if (m := re.fullmatch(pattern, name))]
    if not found:
        raise KeyError("encoder.down.0.block.0.conv1.weight")
    return found


def _vae_name(name: str, levels: int) -> str:
    side, _, rest = name.partition(".")
    resnet = _ENCODER_RESNET if side == "encoder" else _DECODER_RESNET
    if renamed := _swap(rest, _VAE_ENDS):
        return f"{side}.{renamed}"
    if match := re.fullmatch(r"mid\.attn_1\.(.+)", rest):
        return f"{side}.mid_block.attentions.0.{_swap(match[1], _VAE_ATTENTION) or match[1]}"
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", rest):
        return f"{side}.mid_block.resnets.{int(match[1]) - 1}.{_swap(match[2], resnet) or match[2]}"
    if match := re.fullmatch(r"(down|up)\.(\d+)\.block\.(\d+)\.(.+)", rest):
        block = f"{side}.{_vae_level(match[1], int(match[2]), levels)}"
        return f"{block}.resnets.{match[3]}.{_swap(match[4], resnet) or match[4]}"
    if match := re.fullmatch(r"(down|up)\.(\d+)\.(downsample|upsample)\.(.+)", rest):
        return f"{side}.{_vae_level(match[1], int(match[2]), levels)}.{match[3]}rs.0.{match[4]}"
    return name


def _vae_level(way: str, level: int, levels: int) -> str:
    """sgm counts levels from the finest in both directions, diffusers in the order they run."""
    return f"down_blocks.{level}" if way == "down" else f"up_blocks.{levels - 1 - level}"


# --- CLIP image tower ---


def clip_config(weights: Mapping[str, Tensor], head_channels: int = 80) -> dict[str, Any]:
    """Arguments of `CLIPVisionConfig` for the image tower in `weights` (OpenCLIP names, no prefix).

    Raises:
        KeyError: a tensor that fixes the configuration is not there.
    """
    width, _, patch, _ = weights["conv1.weight"].shape
    tokens = weights["positional_embedding"].shape[0]
    layers = {match[1] for name in weights if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    return {
        "hidden_size": width,
        "intermediate_size": weights["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // head_channels,
        "image_size": round((tokens - 1) ** 0.5) * patch,
        "patch_size": patch,
        "projection_dim": weights["proj"].shape[1],
        "hidden_act": "gelu",  # transformers' default for CLIP, quick_gelu, is another function
        "layer_norm_eps": 1e-5,
    }


def clip_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP names (no prefix) -> transformers names; joint q, k, v matrices are split in three."""
    out = {}
    for name in weights:
        tensor = weights[name]
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        layer = f"vision_model.encoder.layers.{match[1]}" if match else ""
        if name == "proj":
            out["visual_projection.weight"] = tensor.T.contiguous()
        elif not match:
            out[_swap(name, _CLIP_ENDS) or name] = tensor
        elif match[2].startswith("attn.in_proj_"):
            kind = match[2].removeprefix("attn.in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{layer}.self_attn.{letter}_proj.{kind}"] = part.contiguous()
        else:
            out[f"{layer}.{_swap(match[2], _CLIP_LAYER) or match[2]}"] = tensor
    return out


def _swap(name: str, table: Mapping[str, str]) -> str | None:
    """`name` with its leading part replaced as `table` says; None when the table does not know it."""
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None
