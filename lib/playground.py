"""The desk's playground: choose a picture, ask about it, and watch the answer come."""
import asyncio
import json
import threading
import time
from html import escape

import ipywidgets as widgets
from IPython.display import HTML, display

from lib import allowed, images, judging, own_pictures, records, tables
from lib.bench import Bench
from lib.client import Request
from lib.desk import by_hand, present, said, started
from lib.errors import UserError
from lib.exchange import Exchange
from lib.foreign import fit
from lib.gallery import small

DRAWN_EVERY_S = 0.04
DRAWN = "drawn: "
SHOWN = 10_000  # characters of a reply: a browser lays out a longer one for seconds, and again at each piece that comes
REPLY = ("white-space:pre-wrap; overflow-wrap:anywhere; unicode-bidi:isolate; max-height:16em; overflow:auto; margin:0; "
         "line-height:1.4; font-size:120%")


async def playground(desk: Bench, pictures: str = "data/images", seed: int = 1) -> None:
    """Choose a picture, ask about it, and watch the answer come. pictures: a folder of one's own (lib.own_pictures);
    seed: of the drawn ones. Every request is a row of the run's series "playground"."""
    panel = Playground(desk, pictures, seed)
    if by_hand():
        return present(panel.box, "A playground")
    await panel.answer()
    display(HTML(f'<img src="{small(panel.picture)}" style="height:12em" alt="{escape(panel.choice.value)}">'
                 f"{said(panel.question.value)}{panel.reply.value}{panel.line.value}"))


class Playground:
    """The panel; `box` is the widget."""

    def __init__(self, desk: Bench, pictures: str, seed: int):
        self.desk, self.seed, self.exchange = desk, seed, None
        self.own = {p.name: p for p in own_pictures.load_folder(pictures).pictures}
        self.asked = 0
        self.choice = widgets.Dropdown(options=[*self.own, *(DRAWN + kind for kind in images.KINDS)], description="picture")
        self.again = widgets.Button(description="draw another", layout={"width": "10em"})
        self.image = widgets.Image(layout={"max_width": "300px", "max_height": "300px", "object_fit": "contain"})
        self.known = widgets.Dropdown(description="ask")
        self.question = widgets.Textarea(description="question", layout={"width": "28em", "height": "4em"})
        self.tokens = widgets.IntSlider(48, 1, min(512, (desk.server.max_model_len or 512) // 2), description="at most, tokens",
                                        style={"description_width": "initial"})
        self.ask = widgets.Button(description="Ask", button_style="primary")
        self.stop = widgets.Button(description="Stop", disabled=True)
        self.line, self.reply = widgets.HTML(said("Ask, and the first token's time stands here.")), widgets.HTML()
        self.box = widgets.HBox([
            widgets.VBox([self.choice, self.image, self.again]),
            widgets.VBox([self.known, self.question, self.tokens, widgets.HBox([self.ask, self.stop]), self.line, self.reply],
                         layout={"width": "34em"})],
            layout={"flex_flow": "row wrap"}).add_class("playground")
        self._one_at_a_time = threading.Lock()  # as the explorer's: the picture that is shown is the one that is asked about
        self.choice.observe(lambda change: self.choose(), "value")
        self.known.observe(lambda change: self.fill(), "value")
        self.again.on_click(lambda button: self.choose(draw=1))
        self.ask.on_click(lambda button: started(self.answer(), self.line, self.ask))
        self.stop.on_click(lambda button: self.exchange and self.exchange.break_off())
        self.choose()

    def choose(self, draw: int = 0) -> None:
        """Show the chosen picture and the questions whose answers are known. `draw`: so many pictures further."""
        with self._one_at_a_time:
            self.seed += draw
            name = self.choice.value
            drawn = name.startswith(DRAWN) and name not in self.own
            self.picture = images.make(name.removeprefix(DRAWN), self.seed) if drawn else self.own[name]
            self.again.disabled = not drawn
            self.image.value, self.image.format = self.picture.data, self.picture.format
            self.known.options = [q.question for q in self.picture.questions] or ["What do you see?"]
            self.known.index = 0
            self.fill()

    def fill(self) -> None:
        self.question.value = self.known.value or ""

    async def answer(self) -> None:
        """Put the question; the answer appears as it comes. What would be refused anyhow is not sent."""
        with self._one_at_a_time:
            question, picture = self.question.value.strip(), self.picture
        self.reply.value = ""
        if not question:
            raise UserError("the question is empty: write one")
        allowed.check_sizes(self.desk.server, [picture.size], self.tokens.value)
        content = [{"type": "image_url", "image_url": {"url": images.data_url(picture)}}, {"type": "text", "text": question}]
        request = Request([{"role": "user", "content": content}], self.tokens.value, fixed_length=False)
        self.exchange, self.stop.disabled = Exchange(), False
        try:
            async with self.desk.server.client() as client:
                record = await self._streamed(client, request)
        finally:
            self.stop.disabled, self.exchange = True, None
        with records.Sink(self.desk.run.requests_file("playground")) as sink:
            sink.write(record)
        self.show(record.text, told(record, right(picture, question, record.text)))

    async def _streamed(self, client, request: Request) -> records.Record:
        exchange, began = self.exchange, time.monotonic()
        arrived = Arrived(exchange)
        asking = asyncio.ensure_future(client.chat(request, "playground", self.asked, exchange=exchange))
        self.asked += 1
        await asyncio.sleep(0)  # it has begun, and its reader is in place
        arrived.follow()
        while not asking.done():
            waiting = f"waiting for the first token: {(time.monotonic() - (exchange.sent or began)) * 1000:.0f} ms"
            came = f"first token after {(arrived.first_at - exchange.sent) * 1000:.0f} ms …" if arrived.first_at else waiting
            self.show(arrived.text, came)
            await asyncio.wait({asking}, timeout=DRAWN_EVERY_S)
            arrived.hurry()
        return await asking

    def show(self, text: str, line: str) -> None:
        self.reply.value, self.line.value = f'<pre class="reply" style="{REPLY}">{escape(fit(text, SHOWN))}</pre>', said(line)


class Arrived:
    """The text of a reply as far as it has come, read beside the client's own reader."""

    def __init__(self, exchange: Exchange):
        self.exchange, self.text, self.first_at = exchange, "", None  # when the first text was read; s, monotonic
        self._rest, self._offset = b"", 0

    def follow(self) -> None:
        """From now on take part in what the reader of the exchange is given."""
        reader = self.exchange.on_body

        def both(data: bytes) -> None:
            reader(data)
            self.feed(data)
        self.exchange.on_body = both

    def hurry(self) -> None:
        """Have what has been read handed up: by itself it waits for a larger piece, which costs a measurement less."""
        if self.exchange.size > self.exchange.taken:
            self.exchange.wake()

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            try:
                delta = json.loads(line.removeprefix(b"data:"))["choices"][0]["delta"].get("content")
            except (ValueError, LookupError, AttributeError, TypeError):
                continue  # no chunk of text; what is wrong with a reply, the record says
            if delta and not self.text:
                reads = zip(self.exchange.read_at, self.exchange.read_to)
                self.first_at = next((at for at, to in reads if to >= self._offset), None)
            self.text += delta or ""


def right(picture: images.Picture, question: str, reply: str) -> str:
    """Whether a reply is right, in words; nothing where the right answer is not known."""
    known = next((q for q in picture.questions if q.question == question and q.answer), None)
    if known is None:
        return ""
    return "; right" if judging.correct(known.ask, picture.facts, reply, known.answer) else f"; not right, expected: {known.answer}"


def told(record: records.Record, judged: str = "") -> str:
    """A reply's times in a line, or why there is none. judged: what is added of its content."""
    if record.error == "aborted":
        return f"stopped after {record.output_tokens} tokens"
    if record.error:
        return f"{records.ERROR_KINDS[record.error]} ({record.message})"
    times = [f"first token after {tables.number((record.first - record.sent) * 1000)} ms (TTFT)"] if record.first else []
    times += [f"{record.output_tokens} tokens"]
    if record.output_tokens > 1:
        times += [f"one every {tables.number((record.last - record.first) / (record.output_tokens - 1) * 1000)} ms (TPOT)"]
    return ", ".join([*times, f"{tables.number((record.done - record.sent) * 1000)} ms in all"]) + judged
