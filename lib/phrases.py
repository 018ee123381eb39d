"""What is asked about a picture and what the right answer says, in English and Chinese.

A picture's *facts* (shape, color, background, position, number, word, count, …) are the truth; each *ask*
("describe", "color", …) has several wordings and one canonical answer made from the facts.
"""

from __future__ import annotations

COLOR_ZH = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "orange": "橙色", "purple": "紫色",
            "pink": "粉色", "brown": "棕色", "black": "黑色", "white": "白色", "gray": "灰色"}
SHAPE_ZH = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "diamond": "菱形",
            "cross": "十字形", "heart": "心形", "ring": "圆环"}
POSITION_ZH = {"top left": "左上角", "top": "上方", "top right": "右上角", "left": "左边", "center": "中间",
               "right": "右边", "bottom left": "左下角", "bottom": "下方", "bottom right": "右下角"}
PLURAL = {"cross": "crosses"}

QUESTIONS = {
    ("describe", "en"): ["Describe the picture.", "Describe this image.", "What is in the picture?", "What do you see?",
                         "What is shown in this image?", "Describe the image in one sentence.", "What does the image show?",
                         "Please describe what you see.", "What's in this image?", "Describe the image briefly."],
    ("describe", "zh"): ["图里有什么？", "描述这张图片。", "请描述图片的内容。", "图片里有什么？", "你看到了什么？", "这张图片显示了什么？",
                         "请用一句话描述这张图。", "这是什么图？"],
    ("color", "en"): ["What color is the {shape}?", "What color is the shape?", "Which color does the {shape} have?",
                      "What is the color of the {shape}?", "Name the color of the shape.", "What colour is the {shape}?"],
    ("color", "zh"): ["{shape}是什么颜色？", "图形是什么颜色的？", "这个形状是什么颜色？", "请说出{shape}的颜色。"],
    ("shape", "en"): ["What shape is it?", "What shape is in the picture?", "Which shape do you see?", "Name the shape.",
                      "What is the shape of the {color} object?", "What shape is shown?"],
    ("shape", "zh"): ["这是什么形状？", "图片里是什么形状？", "图里是什么图形？", "{color}的图形是什么形状？"],
    ("background", "en"): ["What color is the background?", "What is the background color?", "Which color is the background?",
                           "Name the color of the background.", "What colour is the background?"],
    ("background", "zh"): ["背景是什么颜色？", "图片的背景是什么颜色？", "背景颜色是什么？"],
    ("position", "en"): ["Where is the {shape}?", "Where is the shape in the picture?", "In which part of the image is the {shape}?",
                         "Where in the image is the {shape}?"],
    ("position", "zh"): ["{shape}在哪里？", "图形在图片的什么位置？", "{shape}在图片的哪个位置？"],
    ("number", "en"): ["What number is this?", "What number is in the picture?", "Which number do you see?", "Read the number.",
                       "What number is written in the image?", "What is the number?", "Please read the number in the image.",
                       "Which number is printed here?"],
    ("number", "zh"): ["图里的数字是多少？", "图片中的数字是什么？", "这是什么数字？", "请读出图中的数字。", "上面写着什么数字？"],
    ("word", "en"): ["What word is this?", "What word is in the picture?", "Which word do you see?", "Read the word.",
                     "What word is written in the image?", "What is the word?", "Please read the word in the image.",
                     "Which word is printed here?"],
    ("word", "zh"): ["图里的单词是什么？", "图片中写着什么单词？", "这是什么单词？", "请读出图中的单词。", "上面写着什么单词？"],
    ("text", "en"): ["What does it say?", "Read the text.", "What text is in the picture?", "What is written here?",
                     "Read the text in the image.", "Transcribe the text in this image."],
    ("text", "zh"): ["上面写着什么？", "请读出图中的文字。", "图片里写了什么？"],
    ("count", "en"): ["How many {shapes} are there?", "How many {shapes} do you see?", "Count the {shapes}.",
                      "How many shapes are there?", "How many objects are in the picture?", "How many {shapes} are in the image?",
                      "Count the objects."],
    ("count", "zh"): ["图里有几个{shape}？", "有多少个{shape}？", "图中有几个图形？", "数一数有多少个{shape}。", "图片里有多少个图形？"],
    ("total", "en"): ["What is the total?", "What is the total on the receipt?", "How much is the total?",
                      "Read the total amount.", "How much was paid in total?"],
    ("total", "zh"): ["总价是多少？", "收据上的总额是多少？", "一共多少钱？"],
    ("price", "en"): ["How much is the {item}?", "What is the price of {item}?", "What does the {item} cost?"],
    ("price", "zh"): ["{item}多少钱？", "{item}的价格是多少？"],
    ("shop", "en"): ["What is the name of the shop?", "Which shop is the receipt from?"],
    ("shop", "zh"): ["商店的名字是什么？", "这是哪家商店的收据？"],
    ("pair_color", "en"): ["Which picture shows a {color} {shape}?", "In which of the two pictures is there a {color} {shape}?",
                           "Which of the two pictures has the {color} {shape}?", "Which image shows a {color} {shape}, the first or the second?"],
    ("pair_color", "zh"): ["哪张图片里有{color}的{shape}？", "两张图中哪一张有{color}的{shape}？", "{color}的{shape}在第几张图片里？"],
    ("pair_shape", "en"): ["Which picture shows a {shape}?", "Which of the two pictures has a {shape}?",
                           "In which picture do you see a {shape}?", "Which image contains a {shape}, the first or the second?"],
    ("pair_shape", "zh"): ["哪张图片里有{shape}？", "两张图中哪一张有{shape}？", "{shape}在第几张图片里？"],
    ("pair_background", "en"): ["Which picture has a {background} background?", "Which of the two pictures has the {background} background?"],
    ("pair_background", "zh"): ["哪张图片的背景是{background}？", "两张图中哪一张的背景是{background}？"],
    ("pair_count", "en"): ["Which picture has more objects?", "Which of the two pictures shows more shapes?",
                           "In which picture are there more objects?", "Which image contains more objects, the first or the second?"],
    ("pair_count", "zh"): ["哪张图片里的图形更多？", "两张图中哪一张的图形更多？", "第几张图片里的图形更多？"],
    ("pair_number", "en"): ["Which picture shows the number {number}?", "Which of the two pictures shows {number}?",
                            "In which picture is the number {number}?"],
    ("pair_number", "zh"): ["哪张图片里的数字是{number}？", "两张图中哪一张写着{number}？", "数字{number}在第几张图片里？"],
}
# What was asked for is not there: answering anyway would be a guess.
ABSENT = {("number", "en"): "There is no number in the picture.", ("number", "zh"): "图片里没有数字。",
          ("word", "en"): "There is no word in the picture.", ("word", "zh"): "图片里没有单词。",
          ("text", "en"): "There is no text in the picture.", ("text", "zh"): "图片里没有文字。",
          ("count", "en"): "There are no objects in the picture.", ("count", "zh"): "图片里没有图形。",
          ("shape", "en"): "There is no shape in the picture.", ("shape", "zh"): "图片里没有图形。",
          ("color", "en"): "There is no shape in the picture.", ("color", "zh"): "图片里没有图形。"}


def plural(shape: str) -> str:
    """'circle' -> 'circles'."""
    return PLURAL.get(shape, shape + "s")


def question(ask: str, facts: dict, lang: str, wording: int) -> str:
    """One wording of a question, its slots filled from the facts."""
    options = QUESTIONS[ask, lang]
    return options[wording % len(options)].format(**_words(facts, lang))


def answer(ask: str, facts: dict, lang: str) -> str:
    """The canonical right answer. KeyError if the facts do not hold it."""
    w = _words(facts, lang)
    if ask == "describe":
        return _describe(facts, w, lang)
    if ask.startswith("pair_"):
        first = facts["right"] == 1
        return ("The first picture." if first else "The second picture.") if lang == "en" else ("第一张。" if first else "第二张。")
    if ask == "text":
        shown = facts.get("number") or facts["word"]
        return f"It says {shown}." if lang == "en" else f"上面写着{shown}。"
    if ask == "count":
        n, name = facts["count"], w["shape"] if facts["count"] == 1 or lang == "zh" else w["shapes"]
        if lang == "zh":
            return f"有{n}个{name}。"
        return f"There {'is' if n == 1 else 'are'} {n} {name}."
    template = {
        ("color", "en"): "The {shape} is {color}.", ("color", "zh"): "{shape}是{color}的。",
        ("shape", "en"): "It is a {shape}.", ("shape", "zh"): "这是一个{shape}。",
        ("background", "en"): "The background is {background}.", ("background", "zh"): "背景是{background}。",
        ("position", "en"): "The {shape} is at the {position}.", ("position", "zh"): "{shape}在{position}。",
        ("number", "en"): "The number is {number}.", ("number", "zh"): "数字是{number}。",
        ("word", "en"): "The word is {word}.", ("word", "zh"): "单词是{word}。",
        ("total", "en"): "The total is {total}.", ("total", "zh"): "总价是{total}。",
        ("price", "en"): "The {item} costs {price}.", ("price", "zh"): "{item}的价格是{price}。",
        ("shop", "en"): "The shop is {shop}.", ("shop", "zh"): "商店是{shop}。",
    }[ask, lang]
    return template.format(**w)


def _describe(facts: dict, w: dict, lang: str) -> str:
    if "total" in facts:
        return f"A receipt from {w['shop']} with a total of {w['total']}." if lang == "en" else f"一张{w['shop']}的收据，总价是{w['total']}。"
    if "number" in facts:
        return f"The number {w['number']} on {_a(w['background'])} background." if lang == "en" else f"{w['background']}背景上写着数字{w['number']}。"
    if "word" in facts:
        return f"The word {w['word']} on {_a(w['background'])} background." if lang == "en" else f"{w['background']}背景上写着单词{w['word']}。"
    if "shape" not in facts:
        return f"A plain {w['background']} picture with nothing on it." if lang == "en" else f"一张{w['background']}的空白图片。"
    n = facts.get("count", 1)
    if lang == "zh":
        return f"{w['background']}背景上有{'一' if n == 1 else n}个{w['color']}的{w['shape']}。"
    if n > 1:
        return f"{n} {w['color']} {w['shapes']} on {_a(w['background'])} background."
    return f"{_a(w['color']).capitalize()} {w['shape']} on {_a(w['background'])} background."


def _a(word: str) -> str:
    """The word after its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _words(facts: dict, lang: str) -> dict:
    """The facts as words of a language, for filling templates."""
    # A picture without a shape can still be asked about one: the answer then says that there is none.
    words = {"shape": "shape", "shapes": "shapes", "color": "colored"} if lang == "en" else {"shape": "图形", "color": "彩色"}
    words |= facts
    if "shape" in facts:
        words["shapes"] = plural(facts["shape"])
    if lang == "zh":
        for key, table in (("color", COLOR_ZH), ("background", COLOR_ZH), ("shape", SHAPE_ZH), ("position", POSITION_ZH)):
            if key in facts:
                words[key] = table[facts[key]]
    return words
