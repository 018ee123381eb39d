"""A batched forward of Qwen3-VL for training: all pictures of a batch have one size.

transformers runs the vision attention once per picture in a Python loop. With pictures of one size the
patches form a (pictures, patches, width) tensor and one attention call serves them all. The modules and
their weights are transformers' own; `python -m training.check_forward` shows that both forwards agree.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from training.model import MERGE, PATCH


def patchify(pixels: torch.Tensor, frames: int = 2) -> torch.Tensor:
    """(K, H, W, 3) uint8 -> (K, patches, 3*frames*16*16) float, scaled to -1…1.

    Patches come merge block by merge block, each block's four patches together; a still picture fills
    both frames of a temporal patch.
    """
    k, height, width, _ = pixels.shape
    x = pixels.to(torch.float32) / 127.5 - 1.0
    x = x.view(k, height // (PATCH * MERGE), MERGE, PATCH, width // (PATCH * MERGE), MERGE, PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)  # k, block row, block column, row, column, channel, y, x
    if frames > 1:
        x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1)
    return x.reshape(k, (height // PATCH) * (width // PATCH), -1)


@functools.lru_cache(maxsize=64)
def grid(rows: int, columns: int, side: int, head_dim: int, device: str) -> tuple[torch.Tensor, ...]:
    """For a picture of rows x columns patches, in merge-block order: what depends on position only.

    Returns indices (patches, 4) and weights (patches, 4) that resample the side x side table of learned
    positions bilinearly, and cos, sin (patches, head_dim) of the rotary embedding over row and column.
    """
    r = torch.arange(rows).view(rows // MERGE, 1, MERGE, 1).expand(-1, columns // MERGE, -1, MERGE).reshape(-1)
    c = torch.arange(columns).view(1, columns // MERGE, 1, MERGE).expand(rows // MERGE, -1, MERGE, -1).reshape(-1)
    at_r, at_c = torch.linspace(0, side - 1, rows)[r], torch.linspace(0, side - 1, columns)[c]
    r0, c0 = at_r.long(), at_c.long()
    r1, c1 = (r0 + 1).clamp(max=side - 1), (c0 + 1).clamp(max=side - 1)
    fr, fc = at_r - r0, at_c - c0
    indices = torch.stack([r0 * side + c0, r0 * side + c1, r1 * side + c0, r1 * side + c1], 1)
    weights = torch.stack([(1 - fr) * (1 - fc), (1 - fr) * fc, fr * (1 - fc), fr * fc], 1)
    half = head_dim // 2
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, half, 2, dtype=torch.float) / half))
    angles = torch.cat([r[:, None] * frequencies, c[:, None] * frequencies], 1)
    angles = torch.cat([angles, angles], 1)
    return tuple(t.to(device) for t in (indices, weights, angles.cos(), angles.sin()))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over the last axis of x; cos and sin broadcast against it."""
    one, two = x.chunk(2, -1)
    return x * cos + torch.cat([-two, one], -1) * sin


def vision(visual, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(K, H, W, 3) uint8 -> picture tokens (K, N, text width) and the DeepStack features, each (K, N, text width)."""
    config = visual.config
    rows, columns = pixels.shape[1] // PATCH, pixels.shape[2] // PATCH
    indices, weights, cos, sin = grid(rows, columns, visual.num_grid_per_side, config.hidden_size // config.num_heads,
                                      str(pixels.device))
    # Both frames hold the same picture, so the two halves of the kernel may be added up first.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(patchify(pixels, frames=1), kernel, visual.patch_embed.proj.bias)
    x = x + (visual.pos_embed(indices) * weights[:, :, None]).sum(1).to(x.dtype)
    return vision_blocks(visual, x.float(), cos, sin)


def vision_blocks(visual, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Attention blocks and mergers over (K, patches, vision width)."""
    k, patches, _ = x.shape
    deepstack = []
    for number, block in enumerate(visual.blocks):
        x = _chosen(vision_block)(block, x, cos, sin, visual.config.num_heads)
        if number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[list(visual.deepstack_visual_indexes).index(number)]
            deepstack.append(merger(x).view(k, patches // MERGE ** 2, -1))
    return visual.merger(x).view(k, patches // MERGE ** 2, -1), deepstack


def vision_block(block, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> torch.Tensor:
    """One block of the vision tower."""
    k, patches, _ = x.shape
    qkv = block.attn.qkv(block.norm1(x)).view(k, patches, 3, heads, -1)
    c, s = cos.to(qkv.dtype)[:, None, None], sin.to(qkv.dtype)[:, None, None]
    turned = rotate(qkv[:, :, :2], c, s)  # queries and keys in one go
    q, key, v = (t.transpose(1, 2) for t in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))
    a = F.scaled_dot_product_attention(q, key, v)
    x = x + block.attn.proj(a.transpose(1, 2).reshape(k, patches, -1))
    return x + block.mlp(block.norm2(x))


def rms_norm(norm, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.variance_epsilon)


def text_angles(positions: torch.Tensor, config) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, B, L) positions -> cos, sin (B, 1, L, head_dim): temporal, height and width frequencies interleaved."""
    theta, sections = config.rope_parameters["rope_theta"], config.rope_parameters["mrope_section"]
    half = config.head_dim // 2
    frequencies = 1.0 / (theta ** (torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim))
    axis = torch.zeros(half, dtype=torch.long)
    for number in (1, 2):
        axis[number:sections[number] * 3:3] = number
    chosen = positions.float()[axis.to(positions.device)]  # (half, B, L)
    angles = chosen.permute(1, 2, 0) * frequencies
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos(), angles.sin()


def hidden_states(model, ids, positions, pixels, picture_index) -> torch.Tensor:
    """(B, L) ids, (3, B, L) positions, (K, H, W, 3) pixels, flat picture token places -> (B, L, width) last hidden states."""
    language, config = model.model.language_model, model.config.text_config
    b, length = ids.shape
    x = language.embed_tokens(ids)
    extra = []
    if pixels is not None and len(pixels):
        features, deepstack = vision(model.model.visual, pixels)
        flat = x.reshape(b * length, -1)
        x = flat.index_copy(0, picture_index, features.reshape(len(picture_index), -1).to(flat.dtype)).view(b, length, -1)
        for feature in deepstack:
            extra.append(torch.zeros_like(flat).index_copy(0, picture_index, feature.reshape(len(picture_index), -1).to(flat.dtype))
                         .view(b, length, -1))
    cos, sin = text_angles(positions, config)
    return text_layers(language, x, extra, cos, sin)


def text_layers(language, x: torch.Tensor, extra: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Decoder layers over (B, L, width); `extra` holds what DeepStack adds after the first layers."""
    config = language.config
    sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    for number, layer in enumerate(language.layers):
        x = _chosen(text_layer)(layer, x, cos, sin, *sizes)
        if number < len(extra):
            x = x + extra[number]
    return rms_norm(language.norm, x)


def text_layer(layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv_heads: int, head_dim: int) -> torch.Tensor:
    """One decoder layer."""
    b, length, _ = x.shape
    attention, y = layer.self_attn, rms_norm(layer.input_layernorm, x)
    q = rms_norm(attention.q_norm, attention.q_proj(y).view(b, length, heads, head_dim)).transpose(1, 2)
    k = rms_norm(attention.k_norm, attention.k_proj(y).view(b, length, kv_heads, head_dim)).transpose(1, 2)
    v = attention.v_proj(y).view(b, length, kv_heads, head_dim).transpose(1, 2)
    c, s = cos.to(v.dtype), sin.to(v.dtype)
    q, k = rotate(q.to(v.dtype), c, s), rotate(k.to(v.dtype), c, s)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + attention.o_proj(a.transpose(1, 2).reshape(b, length, -1))
    return x + layer.mlp(rms_norm(layer.post_attention_layernorm, x))


_COMPILED: dict = {}


def compile_blocks() -> None:
    """From now on training runs on compiled blocks: these narrow layers are bound by memory traffic, and fusing halves it.

    One block is compiled and serves all of its kind and every batch shape, so that it takes seconds, not minutes.
    """
    for plain in (vision_block, text_layer):
        _COMPILED[plain] = torch.compile(plain, dynamic=True)


def _chosen(plain):
    """The compiled form while gradients are wanted; measuring runs plain, which saves a second compilation."""
    return _COMPILED.get(plain, plain) if torch.is_grad_enabled() else plain
