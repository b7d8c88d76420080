"""Names of tensors in Stability's ``generative-models``, from which Hi3D derives, and in diffusers."""

from __future__ import annotations

import re

_OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
_IN_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_IN_ATTENTION = {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}
_MIXER = "time_mixer"
_ROW = 3  # two layers, and what halves or doubles the size after them
_IN_AUTOENCODER = {
    "norm_out": "conv_norm_out",
    "nin_shortcut": "conv_shortcut",
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
}


def unet_name(name: str) -> str | None:
    """Name in ``UNetSpatioTemporalConditionModel`` of a tensor of sgm's ``VideoUNet``; None: it has none."""
    layer, _, leaf = name.rpartition(".")
    if layer in _OUTSIDE:
        return f"{_OUTSIDE[layer]}.{leaf}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", layer):
        number, inner = int(found[1]), _inside(found[2], attention=found[1] == "1")
        return inner and f"{_MIDDLE[number]}.{inner}.{leaf}"
    if found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", layer):
        down, part, rest = found[1] == "input", int(found[3]), found[4]
        block, place = divmod(int(found[2]) - down, _ROW)
        way = f"{'down' if down else 'up'}_blocks.{block}"
        if rest == ("op" if down else "conv"):
            return f"{way}.{'down' if down else 'up'}samplers.0.conv.{leaf}"
        inner = _inside(rest, attention=part == 1)
        return inner and f"{way}.{'attentions' if part else 'resnets'}.{place}.{inner}.{leaf}"
    return None


def _inside(layer: str, attention: bool) -> str | None:
    """Name of a layer inside a pair of residual blocks, or of transformers, over space and time."""
    if layer == _MIXER:
        return layer
    if attention:
        known = next((old for old in _IN_ATTENTION if layer == old or layer.startswith(f"{old}.")), None)
        return layer if known is None else _IN_ATTENTION[known] + layer.removeprefix(known)
    temporal = layer.startswith("time_stack.")
    new = _IN_RESNET.get(layer.removeprefix("time_stack."))
    return new and f"{'temporal' if temporal else 'spatial'}_res_block.{new}"


def autoencoder_name(name: str, levels: int) -> str:
    """Name in ``AutoencoderKL`` of a tensor of an autoencoder with so many sizes of feature maps."""
    name = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
    name = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", name)

    def risen(found: re.Match[str]) -> str:
        part = "resnets" if found[2] == "block" else "upsamplers.0"
        return f"decoder.up_blocks.{levels - 1 - int(found[1])}.{part}."

    name = re.sub(r"^decoder\.up\.(\d+)\.(block|upsample)\.", risen, name)
    for old, new in _IN_AUTOENCODER.items():
        name = re.sub(rf"(?<=\.){re.escape(old)}(?=\.)", new, name)
    return name
