"""`shape:MODEL`: a published model's exact architecture without its weights, as a folder made here.

Configuration, processors and sampling defaults are the published ones, so that vLLM does the same work in the same
time; the weights are random (`--load-format dummy`), so that what it answers means nothing. Nothing is downloaded.

The tokenizer is not the published one, which is not ours to make again. It has as many ids, the special ones at
their places, and every id decodes, so that no token is lost on its way to the client. Its words are those of the
embedded model's tokenizer, so that the workbook's prompts become about as many tokens; the rest are made up.
"""
import difflib
import itertools
import json
import shutil
from pathlib import Path

import yaml

from lib import DATA, OUTPUTS
from lib.errors import UserError
from lib.rundir import write_json, write_text

PREFIX = "shape:"
FOLDER = OUTPUTS / "shapes"
WORDS = DATA / "models" / "tiny-qwen3-vl"  # whose words and chat format are taken
SYLLABLES = ["".join(pair) for pair in itertools.product("bdfghjklmnprstvz", "aeiou")]


def published() -> dict[str, dict]:
    """Names of models whose shape is known -> their source, parameters and config."""
    known = yaml.safe_load((DATA / "published_models.yaml").read_text(encoding="utf-8"))
    return {name: about for name, about in known.items() if _family_file(about["config"]["model_type"]).is_file()}


def make(name: str, folder: Path | None = None) -> Path:
    """Make the folder of a model of that shape (a second, 3 MB) and return it.

    Raises UserError for a name that is not in data/published_models.yaml, naming those that are.
    """
    known = published()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.4)
        raise UserError(f"the shape of {name!r} is not known (known: {', '.join(PREFIX + n for n in known)})"
                        + (f"; did you mean {PREFIX}{close[0]}?" if close else ""))
    folder = Path(folder or FOLDER / name)
    folder.mkdir(parents=True, exist_ok=True)
    config = known[name]["config"]
    family = yaml.safe_load(_family_file(config["model_type"]).read_text(encoding="utf-8"))
    for file, content in family["files"].items():
        write_json(folder / file, content)
    shutil.copy(WORDS / "chat_template.jinja", folder)
    write_text(folder / "tokenizer.json", json.dumps(tokenizer(family, config["text_config"]["vocab_size"]), ensure_ascii=False))
    write_json(folder / "config.json", _merged(family["config"], config))  # the last: a folder that has it is whole
    return folder


def tokenizer(family: dict, size: int) -> dict:
    """A byte-level BPE, as the content of tokenizer.json, in which every id below `size` decodes.

    The published tokenizer ends with the added tokens; the embedding has some rows more, and random weights draw
    those ids too. `ignore_merges`: a made-up word is one token also when an answer is read again in the next turn.
    """
    content = json.loads((WORDS / "tokenizer.json").read_text(encoding="utf-8"))
    words, first = content["model"]["vocab"], family["first_added"]
    added = {token: first + n for n, token in enumerate(family["added"])}
    words |= added  # in the vocabulary too, or they would be numbered anew
    free = sorted(set(range(size)) - set(words.values()))
    made_up = (f"Ġ{a}{b}{c}" for a, b, c in itertools.product(SYLLABLES, repeat=3))
    content["model"] |= {"vocab": words | dict(zip((w for w in made_up if w not in words), free)), "ignore_merges": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [{"id": n, "content": token, **plain, "special": n < first + family["special"]}
                               for token, n in added.items()]
    return content


def _family_file(model_type: str) -> Path:
    return DATA / "shapes" / f"{model_type}.yaml"


def _merged(one: dict, other: dict) -> dict:
    """Both, entry by entry."""
    return one | {k: _merged(one[k], v) if isinstance(v, dict) and k in one else v for k, v in other.items()}
