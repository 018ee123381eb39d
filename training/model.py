"""The architecture and the model directory: configuration, tokenizer, processor, weights, written in one move."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

PATCH, MERGE = 16, 2
# Pictures between these keep their own number of tokens, (width/32) x (height/32); smaller ones are enlarged and
# larger ones reduced by the processor, as the published model does with limits of its own.
MIN_PIXELS, MAX_PIXELS = 128 * 128, 1024 * 1024
MEAN = STD = (0.5, 0.5, 0.5)


def build_config(tokenizer) -> Qwen3VLConfig:
    """Qwen3-VL in small: every part of the published architecture, DeepStack included, about 4.5 M parameters."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
           for name in ("image_pad", "video_pad", "vision_start", "vision_end", "endoftext", "im_end")}
    text = dict(vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=5,
                num_attention_heads=6, num_key_value_heads=2, head_dim=32, hidden_act="silu",
                max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 100000.0, "mrope_section": [6, 5, 5],
                                 "mrope_interleaved": True},
                rope_theta=100000.0, eos_token_id=ids["im_end"], pad_token_id=ids["endoftext"], dtype="bfloat16")
    vision = dict(depth=6, hidden_size=128, intermediate_size=512, num_heads=4, patch_size=PATCH, spatial_merge_size=MERGE,
                  temporal_patch_size=2, out_hidden_size=text["hidden_size"], num_position_embeddings=256,
                  deepstack_visual_indexes=[2])
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, dtype="bfloat16",
                         image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
                         vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"])


def build_model(config: Qwen3VLConfig, seed: int) -> Qwen3VLForConditionalGeneration:
    """A model with random float32 weights."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config).float()
    model.tie_weights()
    return model


def processor_files() -> dict[str, dict]:
    """Picture and video preprocessing under the published names and file layout."""
    common = dict(patch_size=PATCH, temporal_patch_size=2, merge_size=MERGE, image_mean=list(MEAN), image_std=list(STD),
                  do_rescale=True, rescale_factor=1 / 255, do_normalize=True, do_convert_rgb=True, do_resize=True,
                  resample=3, processor_class="Qwen3VLProcessor")
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessorFast", "size": size} | common,
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor", "size": size, "fps": 2,
                                           "min_frames": 4, "max_frames": 32, "do_sample_frames": True} | common,
    }


def save(directory: Path, model: Qwen3VLForConditionalGeneration, tokenizer, card: str | None = None) -> int:
    """Write everything that a server needs, in bfloat16, and return the directory's size in bytes.

    The new directory takes the old one's place in one rename: a server that loads it meanwhile sees one
    or the other, never a mixture. A model card that is there already is kept unless `card` is given.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    os.chmod(work, 0o755)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    stored = copy.deepcopy(model).to("cpu", torch.bfloat16)
    stored.save_pretrained(work)
    tokenizer.save_pretrained(work)
    (work / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}, indent=1) + "\n")
    for name, content in processor_files().items():
        (work / name).write_text(json.dumps(content, indent=1) + "\n")
    for file in work.iterdir():
        file.chmod(0o644)
    old_card = directory / "README.md"
    if card is not None:
        (work / "README.md").write_text(card)
    elif old_card.exists():
        shutil.copy(old_card, work / "README.md")
    if directory.exists():
        aside = work.with_name(work.name + "-old")
        os.rename(directory, aside)
        os.rename(work, directory)
        shutil.rmtree(aside)
    else:
        os.rename(work, directory)
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
