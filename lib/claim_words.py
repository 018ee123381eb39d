"""What claim_rules found, in words and as a table, in English and in Chinese. Pure."""
import math

import pandas as pd

from lib import tables
from lib.claims import words
from lib.stats import Estimate

LANGUAGES = ("en", "zh")
VERDICTS = {
    "holds": ("holds", "成立"), "fails": ("does not hold", "不成立"), "part": ("holds only in part", "部分成立"),
    "undecided": ("undecided", "未有定论"), "untestable": ("not testable here", "此处无法检验"),
}
UNSETTLED = ("undecided", "untestable")  # tested, but the figures settle nothing; and not tested
COUNTED = {"holds": ("holds", "hold"), "fails": ("does not hold", "do not hold"), "part": ("holds only in part", "hold only in part"),
           "undecided": ("is undecided", "are undecided"), "untestable": ("is not testable here", "are not testable here")}  # one claim, several
UNITS = {"times": "倍", "pictures/s": "张/秒", "requests/s": "请求/秒"}
HEADS = {"claim": ("claim", "说法"), "claimed": ("claimed", "所称"), "verdict": ("verdict", "结论"), "because": ("because", "理由"),
         "here": ("measured here", "此处测得"), "limit": ("physical limit there", "所称硬件的物理极限")}
WORDS = {
    "any": ("any hardware", "任意硬件"), "any model": ("any model", "任意模型"), "a GPU": ("a GPU", "GPU"), "none": ("none", "无"), "own": ("by the claimant's own numbers", "按其自身数据"),
    "first": ("TTFT of the very first request after a start, over that of the same server's first request after a pause, once warm", "启动后第一个请求的首字延迟，与同一服务预热后停顿再来的首个请求之比"),
    "about": ("about {value}", "约 {value}"), "between": ("{low} to {high}", "{low} 至 {high}"),
    "at least": ("at least {value}", "至少 {value}"), "at most": ("at most {value}", "至多 {value}"),
}
SENTENCES = {
    "unsaid": ("the claim does not say on which hardware and model", "该说法未说明硬件与模型"),
    "elsewhere": ("it is about {model} on {hardware}; this run measured {here_model} on {here}",
                  "说的是 {model}（{hardware}），此次测的是 {here_model}（{here}）"),
    "no_series": ("this run holds no series {name}", "此次运行没有 {name} 系列"),
    "no_flags": ("this run tried no configuration with {flags}", "此次运行未试过 {flags}"),
    "no_figure": ("this run holds no figure {name}", "此次运行没有数值 {name}"),
    "mistyped": ("this run holds no figure {name}; did you mean {nearest}?", "此次运行没有数值 {name}；是否想写 {nearest}？"),
    "no_value": ("{name} has no value", "{name} 没有数值"),
    "doubtful": ("{name} is doubtful here ({verdict})", "此处的 {name} 存疑（{verdict}）"),
    "measured": ("{name}: {value}, n = {n}", "{name}：{value}，n = {n}"),
    "undecided": ("{name} is {value}, on both sides of what is claimed, n = {n}", "{name} 为 {value}，跨越所称界限，n = {n}"),
    "no_interval": ("{name} is {value}, from too little for an interval, n = {n}", "{name} 为 {value}，样本太少，没有区间，n = {n}"),
    "not_shown": ("{name} is {value}, no more than chance explains, n = {n}", "{name} 为 {value}，可能只是偶然，n = {n}"),
    "not_seen": ("it was not seen here in {n} trials ({value})", "此处 {n} 次试验中未见（{value}）"),
    "told": ("{name}: {value}", "{name}：{value}"),
    "room": ("context that fits {hardware} beside the weights, work space not counted", "{hardware} 上除权重外可容纳的上下文（未计工作空间）"),
    "possible": ("{name}{claimed} is {percent} % of the most that {hardware} allows ({bound})", "{name}{claimed} 为 {hardware} 物理上限（{bound}）的 {percent} %"),
    "longer": ("{name}{claimed} is {times} times the least that {hardware} allows ({bound})", "{name}{claimed} 为 {hardware} 物理下限（{bound}）的 {times} 倍"),
    "impossible": ("{name}{claimed} is beyond what {hardware} allows ({bound}): impossible", "{name}{claimed} 超出 {hardware} 的物理极限（{bound}）：不可能"),
    "started": ("{name} started: {means}", "{name}：可以启动。{means}"),
    "not_started": ("{name} did not start ({cause}): {means}", "{name}：无法启动（{cause}）。{means}"),
    "at_once": ("{n} at once: ", "{n} 并发："),
    "scaled": ("{name}scaled to {hardware} by the ratio of the limits, not measured there: {value}", "{name}按物理极限之比换算到 {hardware}（并非实测）：{value}"),
    "other_version": ("{version} (the server's: {server})", "{version}，服务器为 {server}"),
    "documented": ("vLLM {version}, {file}: {means}", "vLLM {version}（{file}）：{means}"),
    "not_documented": ("the vLLM that is installed ({version}) does not say so in {file}", "已安装的 vLLM（{version}）在 {file} 中并无此说"),
}


def word(key: str, lang: str) -> str:
    return WORDS[key][LANGUAGES.index(lang)]


def said(key: str, lang: str, **values) -> str:
    return SENTENCES[key][LANGUAGES.index(lang)].format(**values)


def number_and_unit(e: Estimate, unit: str, lang: str = "en") -> str:
    """`4.1 [3.9, 4.3] times`."""
    shown = f"{e.value:,.0f}" if unit == "tokens" and math.isnan(e.low) else tables.with_interval(e)
    return with_unit(shown, unit, lang)


def with_unit(number: str, unit: str, lang: str) -> str:
    return f"{number} {UNITS.get(unit, unit) if lang == 'zh' else unit}".strip()


def claimed(check, lang: str) -> str:
    """What a check claims: `at least 5 times`; nothing where the claim's own words say all."""
    if check.comparator in ("", "falls", "rises", "happens"):
        return ""
    number = {key: with_unit(tables.number(value), check.unit, lang) for key in ("value", "low", "high") if (value := getattr(check, key)) is not None}
    return word(check.comparator, lang).format(**number)


def table(held: list, lang: str = "en") -> pd.DataFrame:
    """A row a claim: `id`, what is claimed, the verdict, why, what was measured here, and what the physical limit says of it."""
    def of(one):
        here = [f"{f.name}: {number_and_unit(f.measured, f.unit, lang)}, n = {f.measured.n}" for f in one.found if f.measured is not None and f.measured.n]
        nearest = max((f for f in one.found if f.limit), key=lambda f: f.share, default=None)  # if that is possible, all are
        limit = [text for text in (nearest.limit, nearest.scaled) if text and text not in one.reasons] if nearest else []
        return {
            "id": one.claim.id, "claim": one.claim.zh if lang == "zh" and one.claim.zh else one.claim.en,
            "claimed": ("；" if lang == "zh" else "; ").join(dict.fromkeys(filter(None, (claimed(c, lang) for c in [*one.claim.checks, *one.claim.evidence])))),
            "verdict": VERDICTS[one.verdict][LANGUAGES.index(lang)], "because": one.reasons, "here": here, "limit": limit,
            "key": one.verdict, "hardware": one.claim.hardware, "model": one.claim.model, "reading": words(one.claim, "reading", lang), "method": words(one.claim, "method", lang)}
    return pd.DataFrame([of(one) for one in held])


def counted(held: list, lang: str = "en") -> str:
    """`Of 24 claims 3 hold, 6 do not hold, …`."""
    keys = [one.verdict for one in held]
    if lang == "zh":
        return f"共 {len(held)} 条说法：" + "，".join(f"{keys.count(key)} 条{names[1]}" for key, names in VERDICTS.items() if key in keys)
    parts = [f"{keys.count(key)} {verbs[keys.count(key) > 1]}" for key, verbs in COUNTED.items() if key in keys]
    return f"Of {len(held)} claim{'s' * (len(held) != 1)} " + ", ".join(parts)


def as_text(held: list, lang: str = "en") -> str:
    """For a terminal: a claim, its verdict, and below it what stands behind that."""
    lines = []
    for row in table(held, lang).to_dict("records"):
        brackets = "（{}）" if lang == "zh" else " ({})"
        lines.append(f"{row['verdict'].upper()}  {row['claim']}" + (brackets.format(row["claimed"]) if row["claimed"] else ""))
        lines += [f"    {line}" for line in [*row["because"], *row["limit"]]]
    return "\n".join([*lines, counted(held, lang)])
