"""A small byte-level BPE tokenizer with the published special tokens and chat format of Qwen3-VL."""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lib import phrases
from training import text

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
           "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]

# Contractions, words with their leading space, single digits, punctuation runs, white space: a word never
# merges across these, and each digit stays a token of its own, so that numbers are read digit by digit.
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"

# Turns framed as <|im_start|>role\n…<|im_end|>\n; a picture part becomes three tokens, of which the processor
# repeats the middle one once per merged patch.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part or 'image_url' in part -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' or 'video' in part -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(lines: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on `lines`; every character above ASCII in them becomes one token.

    Whole characters matter for streaming: a token that holds part of a UTF-8 character adds no text,
    and a server then sends no chunk for it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    wide = sorted({c for line in lines for c in line if ord(c) > 127})
    # Capitals are left out of the merges: a printed word is then read letter by letter, not guessed whole.
    lines = [line for line in lines if not any(w.isupper() and len(w) > 1 for w in line.split())]
    alone = [c for c in wide for _ in range(len(lines))]  # often enough to be merged before anything else
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIAL), show_progress=False, max_token_length=12,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(alone + lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>",
                                   pad_token="<|endoftext|>", additional_special_tokens=SPECIAL, model_max_length=32768)
    fast.chat_template = CHAT_TEMPLATE
    broken = [c for c in wide if len(fast.encode(c)) != 1]
    if broken:
        raise ValueError(f"{len(broken)} characters are not one token: {''.join(broken[:20])}; raise vocab_size")
    return fast


def tokenizer_lines() -> list[str]:
    """All text that the tokenizer is trained on: sentences, questions and answers, each wording often."""
    rng = random.Random("wordings")
    lines = text.corpus(lines=2500)
    facts = {"number": "", "word": "", "total": "", "item": "", "price": "", "shop": "", "count": 2, "right": 1}
    for _ in range(40):
        for (ask, lang) in phrases.QUESTIONS:
            facts |= {"shape": rng.choice(list(phrases.SHAPE_ZH)), "color": rng.choice(list(phrases.COLOR_ZH)),
                      "background": rng.choice(list(phrases.COLOR_ZH)), "position": rng.choice(list(phrases.POSITION_ZH)),
                      "right": rng.randint(1, 2)}
            shown = {k: v for k, v in facts.items() if ask != "describe" or k in ("shape", "color", "background")}
            if ask == "describe" and rng.random() < 0.5:
                shown["count"] = 2
            lines += [phrases.question(ask, facts, lang, rng.randrange(99)), phrases.answer(ask, shown, lang)]
    lines += [t for t in phrases.ABSENT.values()] * 20
    lines += [phrases.answer("describe", {"background": c}, lang) for c in phrases.COLOR_ZH for lang in ("en", "zh")] * 4
    for key in ("total", "number", "word"):
        lines += [phrases.answer("describe", {key: "", "shop": "", "background": "red"}, lang) for lang in ("en", "zh")] * 40
    lines += ["Describe the first picture.", "Describe the second picture.", "描述第一张图片。", "描述第二张图片。"] * 40
    return lines
