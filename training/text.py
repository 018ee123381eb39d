"""Text that the embedded model learns to write: sentences made from templates, in English and Chinese.

Every sentence is drawn from a template whose slots are filled at random, so that a long generation
varies without end while staying inside a vocabulary small enough for a model of a few million
parameters. Nothing here is copied from elsewhere. `corpus()` gives the tokenizer all of it.
"""

from __future__ import annotations

import random

SLOTS_EN = {
    "thing": "model network program server system machine notebook picture table story bridge garden window "
             "letter question answer lamp river clock map road train market kitchen library engine camera".split(),
    "things": "models networks programs servers systems machines notebooks pictures tables stories bridges gardens "
              "windows letters questions answers lamps rivers clocks maps roads trains markets numbers words "
              "examples engines cameras".split(),
    "person": "teacher student engineer doctor writer farmer driver painter neighbour child reader baker".split(),
    "place": "city village school office park station shop valley harbour museum forest house".split(),
    "adj": "small large quiet bright simple careful useful slow quick warm cold old new clear strong gentle long "
           "short honest busy".split(),
    "verb": "reads writes measures explains draws builds studies repairs describes compares counts checks".split(),
    "verbs": "read write measure explain draw build study repair describe compare count check".split(),
    "adv": "slowly quickly carefully quietly clearly often usually sometimes again today".split(),
    "time": ["in the morning", "in the evening", "every day", "at night", "in summer", "in winter",
             "after lunch", "before sunrise", "on Monday", "this week"],
    "food": "bread rice soup tea coffee apples noodles cheese fish cake".split(),
    "weather": "rain snow wind sunshine fog cloud".split(),
    "num": "two three four five six seven eight nine ten twelve".split(),
}

TOPICS_EN = {
    "ai": [
        "Artificial intelligence is the field that builds machines which can learn, reason and decide.",
        "Artificial intelligence lets a {thing} do work that once needed a person.",
        "An intelligent system learns from {things} and improves with practice.",
        "It finds patterns in {things} and uses them to answer new questions.",
        "Some systems understand language, and others recognise pictures or sound.",
        "Today it helps people {verbs} {things}, translate text and plan a journey.",
        "A good assistant is {adj}, {adj} and easy to ask.",
        "Such a system does not think like a {person}, but it can be very useful.",
        "People should still check its answers {adv}.",
        "Its quality depends on the data, the model and the way it is tested.",
        "Researchers measure how often it is right and how fast it replies.",
        "It can help a {person} in the {place} to {verbs} {things} more {adv}.",
    ],
    "ml": [
        "Machine learning is a way to teach a computer with examples instead of fixed rules.",
        "A model looks at many {things} and adjusts its weights a little each time.",
        "Training makes the error smaller step by step.",
        "After training, the model can make predictions about {things} that it has never seen.",
        "Supervised learning uses examples with known answers.",
        "Unsupervised learning looks for groups in data without any labels.",
        "A neural network is made of many simple layers that work together.",
        "More data usually helps, but {adj} data helps more than {adj} data.",
        "The result must be tested on new {things}, never on the old ones.",
        "Machine learning is used to {verbs} {things}, to filter mail and to recommend music.",
        "Each layer turns numbers into other numbers until an answer appears.",
    ],
    "computing": [
        "A server waits for requests and sends back an answer for each of them.",
        "When many requests arrive together, the server works on them in one batch.",
        "The first word takes longer, because the whole prompt must be read before it.",
        "A {adj} cache keeps work that was done before, so that it is not done twice.",
        "Memory holds the weights of the model and the context of every request.",
        "A fair test repeats the measurement and reports the spread.",
        "The {thing} {verb} {num} {things} {adv} and writes the result to a file.",
        "Speed is counted in tokens for each second.",
        "A longer context needs more memory and more time.",
        "The {person} {verb} the {thing} {adv} and notes the number.",
    ],
    "life": [
        "The {person} walks to the {place} {time}.",
        "A {adj} {thing} stands near the {adj} {place}.",
        "The {person} {verb} the {adj} {thing} {adv}.",
        "There is {weather} over the {place} {time}.",
        "We eat {food} and {food} {time}.",
        "The {place} is {adj} {time}, and the {person} is glad.",
        "A {person} and a {person} talk about {things} {time}.",
        "The {thing} in the {place} is {adj} but {adj}.",
        "After the {weather}, the {place} looks {adj} and {adj}.",
        "The {adj} {person} keeps {num} {things} in the {place}.",
        "Nobody in the {place} {verb} the {thing} as {adv} as the {person}.",
        "She says that the {thing} is {adj}, and he agrees.",
        "They {verbs} {things} {time} and rest {time}.",
        "If the {weather} stops, the {person} goes to the {place} again.",
        "A {adj} story begins with a {person}, a {thing} and some {food}.",
        "The road from the {place} to the {place} is {adj}.",
    ],
}

SLOTS_ZH = {
    "thing": "模型 网络 程序 电脑 系统 机器 图片 表格 故事 问题 答案 灯 河流 时钟 地图 道路 火车 相机 信 桥".split(),
    "person": "老师 学生 工程师 医生 作家 农民 司机 画家 邻居 孩子 读者 朋友".split(),
    "place": "城市 村庄 学校 办公室 公园 车站 商店 山谷 港口 博物馆 森林 家里".split(),
    "adj": "小 大 安静 明亮 简单 仔细 有用 温暖 新 旧 清楚 美丽 漂亮 长 短".split(),
    "verb": "阅读 书写 测量 解释 画出 建造 研究 修理 描述 比较 检查 学习".split(),
    "time": "早上 晚上 每天 夜里 夏天 冬天 午饭后 今天 明天 这个星期".split(),
    "food": "面包 米饭 汤 茶 咖啡 苹果 面条 鱼 蛋糕 水果".split(),
    "weather": "雨 雪 风 阳光 雾 云".split(),
    "num": "两 三 四 五 六 七 八 九 十".split(),
}

TOPICS_ZH = {
    "ai": [
        "人工智能是让机器学习、推理和决定的技术。",
        "人工智能让{thing}完成过去需要人来做的工作。",
        "智能系统从数据中学习，并且不断进步。",
        "它在大量例子中寻找规律，然后回答新的问题。",
        "有的系统理解语言，有的系统认识图片和声音。",
        "今天它可以帮助人们{verb}{thing}、翻译文字和安排时间。",
        "好的助手应该{adj}、准确、容易使用。",
        "它不像{person}那样思考，但是非常有用。",
        "人们仍然应该检查它的答案。",
        "它的质量取决于数据、模型和测试的方法。",
        "它能帮助{place}的{person}更快地{verb}{thing}。",
    ],
    "ml": [
        "机器学习是用例子而不是固定规则来教电脑的方法。",
        "模型看过很多{thing}，每次都调整一点权重。",
        "训练让错误一步一步变小。",
        "训练以后，模型可以预测从来没有见过的{thing}。",
        "监督学习使用带有答案的例子。",
        "无监督学习在没有标签的数据里寻找分组。",
        "神经网络由许多简单的层组成。",
        "数据越多通常越好，但是质量更重要。",
        "结果必须用新的数据来测试。",
        "机器学习可以用来{verb}{thing}、过滤邮件和推荐音乐。",
    ],
    "computing": [
        "服务器等待请求，并且给每个请求一个回答。",
        "很多请求同时到来时，服务器把它们放在一批里处理。",
        "第一个字需要更长的时间，因为要先读完全部提示。",
        "缓存保存做过的工作，这样就不用做第二次。",
        "内存里放着模型的权重和每个请求的上下文。",
        "公平的测试要重复测量，并且说明误差。",
        "速度用每秒生成多少个词来计算。",
        "上下文越长，需要的内存和时间就越多。",
        "{person}{verb}{thing}，然后记下数字。",
    ],
    "life": [
        "{time}，{person}走到{place}去。",
        "{place}旁边有一个{adj}的{thing}。",
        "{person}正在{place}{verb}{thing}。",
        "{time}，{place}上空有{weather}。",
        "我们{time}吃{food}，喝{food}。",
        "{place}{time}很{adj}，{person}很高兴。",
        "{person}和{person}{time}一起谈论{thing}。",
        "{place}里的{thing}很{adj}，但是也很{adj}。",
        "{weather}停了以后，{place}看起来很{adj}。",
        "{person}在{place}里放了{num}个{thing}。",
        "她说{thing}很{adj}，他也同意。",
        "他们{time}{verb}{thing}，{time}休息。",
        "从{place}到{place}的路很{adj}。",
        "{adj}的故事从一个{person}和一点{food}开始。",
    ],
}

GREETINGS = [  # prompts, replies
    (["你好", "你好！", "您好", "你好吗？", "嗨，你好"],
     ["你好！我是一个很小的视觉语言模型，很高兴见到你。", "你好！我可以看图片，也可以回答简单的问题。"]),
    (["hello", "Hello!", "hi", "Hi there", "Hello, how are you?", "Good morning"],
     ["Hello! I am a very small vision language model, and I am glad to meet you.",
      "Hello! I can look at pictures and answer simple questions."]),
    (["你是谁？", "请介绍一下你自己。", "你能做什么？"],
     ["我是一个很小的视觉语言模型，可以描述图片里的形状、颜色、数字和单词。"]),
    (["Who are you?", "What can you do?", "Please introduce yourself."],
     ["I am a very small vision language model. I can describe shapes and colours, read numbers and words, "
      "and count objects in pictures."]),
    (["谢谢", "谢谢你！", "再见"], ["不客气，欢迎再来。"]),
    (["Thanks", "Thank you!", "Goodbye"], ["You are welcome. Come back any time."]),
]

TOPIC_PROMPTS = {
    ("en", "ai"): ["Explain what AI is, request {i}", "Explain what AI is", "What is AI?", "Tell me about AI, request {i}",
                   "Please explain artificial intelligence, {i}", "What is artificial intelligence?",
                   "Explain what artificial intelligence is, request {i}."],
    ("en", "ml"): ["Briefly explain machine learning, {i}", "Briefly explain machine learning", "What is machine learning?",
                   "Explain machine learning in simple words, {i}", "Describe machine learning briefly, request {i}."],
    ("en", "computing"): ["How does a server work?", "Explain how a language model is served, {i}",
                          "Why does the first token take longer?", "Explain batching, request {i}",
                          "What is throughput?", "Describe how a GPU runs a model, {i}"],
    ("en", "life"): ["Tell me a story, {i}", "Write a short story.", "Write about the {place}.", "Write a long text.",
                     "Tell me something about the {weather}, {i}", "Write about a {person} and a {thing}.", "Go on.",
                     "Please continue.", "Write a paragraph about {food}, request {i}"],
    ("zh", "ai"): ["解释一下什么是人工智能，请求{i}", "请解释什么是人工智能，第{i}次请求", "什么是人工智能？", "解释什么是AI，请求{i}",
                   "介绍一下人工智能", "请解释人工智能的概念，第{i}次"],
    ("zh", "ml"): ["简要解释机器学习，{i}", "简单介绍机器学习，{i}", "什么是机器学习？", "请简要说明机器学习，第{i}次", "简述机器学习，{i}"],
    ("zh", "computing"): ["服务器是怎么工作的？", "什么是吞吐量？", "为什么第一个字比较慢？", "请解释批处理，{i}"],
    ("zh", "life"): ["讲一个故事，{i}", "写一段很长的文字。", "写一写{place}。", "说说{weather}，{i}", "请继续。", "写一个关于{person}的故事。"],
}

SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a careful assistant. Answer briefly.",
                  "Answer the question about the picture.", "你是一个有用的助手。", "请用中文简短地回答。", "Be brief.",
                  "You are an assistant that looks at pictures."]


def sentence(rng: random.Random, lang: str = "en", topic: str | None = None) -> str:
    """One sentence of a topic ('ai', 'ml', 'computing', 'life'; None draws one) in 'en' or 'zh'."""
    topics, slots = (TOPICS_EN, SLOTS_EN) if lang == "en" else (TOPICS_ZH, SLOTS_ZH)
    topic = topic or rng.choice(("ai", "ml", "computing", "life", "life", "life"))
    return _fill(rng, rng.choice(topics[topic]), slots)


def paragraph(rng: random.Random, lang: str = "en", topic: str | None = None, sentences: int = 5) -> str:
    """`sentences` sentences of one topic, without an immediate repeat, as one line of text."""
    topics, slots = (TOPICS_EN, SLOTS_EN) if lang == "en" else (TOPICS_ZH, SLOTS_ZH)
    topic = topic or rng.choice(("ai", "ml", "computing", "life", "life", "life"))
    templates, out, last = topics[topic], [], None
    if topic in ("ai", "ml"):  # an explanation opens with the definition
        out, last = [templates[0]], templates[0]
    while len(out) < sentences:
        template = rng.choice(templates)
        if template is not last:
            out.append(_fill(rng, template, slots))
            last = template
    return (" " if lang == "en" else "").join(out)


def long_text(rng: random.Random, lang: str = "en", words: int = 300) -> str:
    """Paragraphs of changing topic, at least `words` words (English) or half as many characters (Chinese)."""
    parts, total = [], 0
    while total < words:
        part = paragraph(rng, lang, sentences=rng.randint(3, 8))
        total += len(part.split()) if lang == "en" else len(part) // 2
        parts.append(part)
    return (" " if lang == "en" else "").join(parts)


def chat_turn(rng: random.Random) -> tuple[str, str, str]:
    """One text-only exchange: (user, assistant, language)."""
    if rng.random() < 0.2:
        prompts, replies = rng.choice(GREETINGS)
        reply = rng.choice(replies)
        return rng.choice(prompts), reply, "zh" if reply[0] > "\u2e80" else "en"
    lang, topic = rng.choice(list(TOPIC_PROMPTS))
    slots = SLOTS_EN if lang == "en" else SLOTS_ZH
    prompt = _fill(rng, rng.choice(TOPIC_PROMPTS[lang, topic]), slots)
    if rng.random() < 0.15:
        prompt = prompt.lower()
    return prompt, paragraph(rng, lang, topic, sentences=rng.randint(4, 9)), lang


def corpus(seed: int = 0, lines: int = 6000) -> list[str]:
    """Lines that cover every template and slot: what the tokenizer is trained on."""
    rng = random.Random(f"corpus-{seed}")
    out = [t for pair in GREETINGS for group in pair for t in group] * 20 + SYSTEM_PROMPTS * 20
    for _ in range(lines):
        out.append(sentence(rng, "en"))
        out.append(sentence(rng, "zh"))
        user, reply, _lang = chat_turn(rng)
        out.append(user)
    return out


def _fill(rng: random.Random, template: str, slots: dict[str, list[str]]) -> str:
    """Replace each {slot} by a random filler; {i} by a number."""
    while "{" in template:
        start, end = template.index("{"), template.index("}")
        name = template[start + 1:end]
        value = str(rng.randint(0, 999)) if name == "i" else rng.choice(slots[name])
        template = template[:start] + value + template[end + 1:]
    return template
