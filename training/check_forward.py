"""Show that the batched training forward computes what transformers' own forward computes.

    python -m training.check_forward [model folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

from training import compat  # noqa: F401  (before transformers)

import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from training import data, forward

ROOT = Path(__file__).resolve().parent.parent


def largest_difference(model, maker: data.Maker, number: int, form: str, bucket: tuple[int, int]) -> tuple[float, float]:
    """(largest absolute difference of the logits, largest absolute logit) over one small batch, in float32."""
    batch = maker.batch(number, form, bucket, scale=0.02)
    pixels = torch.from_numpy(batch["pixels"])
    ids = torch.from_numpy(batch["ids"]).long()
    positions = torch.from_numpy(batch["positions"]).long()
    index = torch.from_numpy(batch["picture_index"])
    with torch.no_grad():
        ours = model.lm_head(forward.hidden_states(model, ids, positions, pixels, index))
        keywords = {}
        if len(pixels):
            rows, columns = pixels.shape[1] // forward.PATCH, pixels.shape[2] // forward.PATCH
            keywords = {"pixel_values": forward.patchify(pixels).flatten(0, 1),
                        "image_grid_thw": torch.tensor([[1, rows, columns]] * len(pixels)),
                        "mm_token_type_ids": (ids == model.config.image_token_id).int()}
        theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids), **keywords).logits
    real = ids != maker.special["endoftext"]  # padding has positions of its own in each
    return (ours - theirs)[real].abs().max().item(), theirs[real].abs().max().item()


def main(folder: str) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    maker = data.Maker(AutoTokenizer.from_pretrained(folder))
    worst = 0.0
    for number, (form, bucket) in enumerate([("one", (128, 128)), ("one", (224, 224)), ("pair", (256, 192)),
                                             ("turns", (192, 256)), ("long", (320, 224)), ("chat", (128, 128))]):
        difference, size = largest_difference(model, maker, number, form, bucket)
        worst = max(worst, difference / size)
        print(f"{form:6} {bucket[0]:4}x{bucket[1]:<4} largest difference {difference:.2e} of logits up to {size:.2f}")
    if worst > 1e-4:
        raise SystemExit(f"the two forwards differ by {worst:.1e} of the largest logit")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "data/models/tiny-qwen3-vl"))
