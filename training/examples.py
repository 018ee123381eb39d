"""Write the example pictures of data/images with their questions.

    python -m training.examples
"""

from __future__ import annotations

from pathlib import Path

import yaml

from lib import images

FOLDER = Path(__file__).resolve().parent.parent / "data/images"
# (file, kind, seed, size, format): one of each kind, and the article's 1024x768 JPEG
EXAMPLES = [("shape.png", "shape", 11, (256, 256), "png"), ("number.png", "number", 4, (256, 192), "png"),
            ("word.png", "word", 5, (256, 192), "png"), ("count.png", "count", 9, (320, 240), "png"),
            ("receipt.png", "receipt", 3, (256, 320), "png"), ("photo-1024x768.jpg", "shape", 42, (1024, 768), "jpeg")]
README = """# Pictures
Drawn by `lib/images.py` from fixed seeds (`python -m training.examples` writes them again). Put pictures of your own beside
them, and what to ask about them into `answers.yaml`: `01_health_check` asks that too, and shows the answers. Its parameter
`pictures` names another folder: `.venv/bin/workbook run 01 -p pictures /home/me/pictures`.

```yaml
cat.jpg:
  - question: Which animal is this?
    answer: cat            # right if the reply contains it; a list means any of these
  - question: 图里有几只猫？
    answer: [2, 两只]
    lang: zh
```

JPEG, PNG, WebP, BMP or GIF (not animated), up to 4,096 pixels a side. A file that cannot be used is named in one line with
the reason, counted and left out; a picture without a question is named too. EXIF orientation is applied; metadata is never sent.
"""


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    answers = {}
    for name, kind, seed, size, format in EXAMPLES:
        picture = images.make(kind, seed, size, format)
        (FOLDER / name).write_bytes(picture.data)
        key = {"receipt": "total", "shape": "shape"}.get(kind, kind)
        value = picture.facts[key]
        answers[name] = [{"question": images.ask(picture, key).question, "answer": value}]
        if kind == "shape":
            answers[name].append({"question": images.ask(picture, "color", "zh").question, "lang": "zh",
                                  "answer": images.ask(picture, "color", "zh").answer.split("是")[1].strip("的。")})
    (FOLDER / "answers.yaml").write_text(yaml.safe_dump(answers, allow_unicode=True, sort_keys=False), encoding="utf-8")
    (FOLDER / "README.md").write_text(README, encoding="utf-8")


if __name__ == "__main__":
    main()
