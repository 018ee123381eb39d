"""Plots of Chinese drafts: Chinese words where a font has them, English ones where none has, and never boxes."""
import re

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from lib import drafts, plots, plots_zh, publish
from lib.stats import Estimate
from test_publish import run  # noqa: F401


@pytest.fixture
def font(tmp_path, monkeypatch):
    """Which characters a font of this machine has: function of them."""
    def having(characters: str):
        pen = TTGlyphPen(None)
        for move, point in ((pen.moveTo, (50, 0)), (pen.lineTo, (50, 700)), (pen.lineTo, (800, 700)), (pen.lineTo, (800, 0))):
            move(point)
        pen.closePath()
        square = pen.glyph()
        names = [".notdef", *(f"u{ord(c):04X}" for c in sorted(set(characters)))]
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(names)
        builder.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in set(characters)})
        builder.setupGlyf(dict.fromkeys(names, square))
        builder.setupHorizontalMetrics({name: (900, 50) for name in names})
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": "Test CJK SC", "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        builder.save(tmp_path / "test.ttf")
        monkeypatch.setattr(plots_zh.font_manager, "findSystemFonts", lambda: [str(tmp_path / "test.ttf"), str(tmp_path / "missing.ttf")])
        plots_zh.font.cache_clear()
    yield having
    plots_zh.font.cache_clear()


NEEDED = "".join(map(str, [plots_zh.words()["labels"].values(), [said for _, said in plots_zh.words()["patterns"]]])) + "0123456789."


@pytest.mark.parametrize("has, chinese", [(NEEDED, True), (NEEDED.replace("均", ""), False)])
def test_a_plot_has_chinese_words_where_a_font_has_all_of_them_and_else_the_draft_says_so(run, font, has, chinese):  # noqa: F811
    font(has)
    before = (run.path / "plots" / "single_ttft.svg").read_text()
    text = publish.publish(run.name, "zh").read_text()
    after = (run.path / "draft" / "zh" / "plots" / "single_ttft.svg").read_text()
    assert ("没有中文字体" in text) != chinese and (before != after) == chinese
    labels = [group for group in re.split(r'(?=<g id="text_)', after)[1:] if "requests -->" in group]
    assert labels and all(("<use" in group.split("</g>")[0]) != chinese for group in labels)
    assert not publish.SCRIPTED.search(after.split("<svg", 1)[1].encode())


def test_what_a_model_said_and_numbers_stay_as_they_are():
    assert plots_zh.chinese("'The road from'") is None and plots_zh.chinese("16") is None
    assert plots_zh.chinese("line through cold turns: 154.2 [146.7, 163.6] ms per 1,000 tokens") == "拟合线（未命中缓存的轮次）：每 1,000 token 154.2 [146.7, 163.6] ms"


def test_what_is_no_plot_of_matplotlib_stays_as_it_is(font):
    font(NEEDED)
    assert plots_zh.translated(b"<svg") == b"<svg"
