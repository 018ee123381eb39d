"""The same load from a Ray cluster: one actor in place of each worker process, spread over the hosts.

Ray starts the actors, carries plans to them and rows back, and notices what dies; what an actor does with its plan
is lib.driver, as in a worker process here. Rows are fetched a few times a second and appended to the one file on
this machine, so that memory stays flat and an interrupted run keeps what it has.
How their clocks stand to ours: lib.remote.
"""
import asyncio
import importlib.util
import math
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from lib import calibration
from lib.driver import Plan
from lib.errors import UserError
from lib.hiding import learn, real
from lib.records import Sink
from lib.remote import Clock, RemoteWorker, here, versions
from lib.shapes import Closed, Shape
from lib.worker import REPORT_EVERY_S

WAYS = "ray (processes here), auto, HOST:PORT (a cluster that this machine has joined) or ray://HOST:10001"
REACH_S, CONNECT_S = 5.0, 40.0  # until an address is taken as not reachable; until Ray is
START_LIMIT_S = 60.0  # for an actor to be placed, to import what it needs and to answer
LOST_AFTER_S = 20.0  # without an answer a worker is taken as lost; Ray itself may take 30 s to notice a host's end
PINGS = 20
POLLS_PER_S = 200  # of all workers together; one Python process can take no more than some thousand


@dataclass
class _Member:
    """One actor, seen from here."""

    actor: object
    host: str = "a host not yet known"
    machine: str = ""
    clock_name: str = ""
    clock: Clock = field(default_factory=Clock)

    async def ask(self, method: str, *args, limit_s: float = LOST_AFTER_S):
        """Raises UserError, also where no answer comes in time."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return await asyncio.wait_for(getattr(self.actor, method).remote(*args), limit_s)
        except TimeoutError:
            reason = f"no answer for {limit_s:g} s"
        except RayTaskError as error:
            raise UserError(f"a load worker on {self.host} failed: {_last_line(error)}")
        except (RayError, ConnectionError) as error:
            if "No module named" in str(error) or "failed to be imported" in str(error) or "ImportError" in str(error):
                raise UserError("a host of the cluster cannot load this workbook's package (lib, with what it needs): "
                                "install the same checkout on every host, and start Ray from its environment")
            reason = type(error).__name__
        raise UserError(f"the load worker on {self.host} is lost ({reason}); its requests in flight are lost with it")

    async def relate(self, clock: Clock) -> Clock:
        """Ping the host, one message at a time: several at once would wait for each other."""
        for _ in range(PINGS):
            sent = time.monotonic()
            there = await self.ask("ping")
            clock.exchange(sent, there, there, time.monotonic())
        return clock


_connected: str | None = None  # what `connect` has connected to
_crew: list[_Member] = []  # kept from one series to the next


def check(on: str) -> None:
    """Whether `--load` makes sense, as far as can be told without joining. Raises UserError."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--load {on} needs Ray, which is not installed here: pip install -e '.[ray]'")
    if on in ("ray", "auto"):
        return
    on = real(on)
    learn(on)
    parts = urlsplit(on if "://" in on else f"//{on}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("", "ray") or not host or not port:
        raise UserError(f"--load {on!r} is no address: {WAYS}")
    try:
        socket.create_connection((host, port), REACH_S).close()
    except OSError as error:
        raise UserError(f"no Ray cluster at {on}: {error.strerror or error}: is `ray start --head` running there, is the port open?")


def connect(on: str):
    """Join the cluster, once -> the module ray. Blocks for up to CONNECT_S. Raises UserError."""
    global _connected
    check(on)
    on = real(on)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if on == "ray" and "ray" not in sys.modules:  # on the loopback interface, as on macOS; a key in no file
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if ray.is_initialized():
        if _connected in (None, on):  # None: whoever uses this notebook has joined one already
            return ray
        leave()
    _connected = on
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if on == "ray":  # in this thread: Ray's processes end with the thread that started them
        ray.init(include_dashboard=False, **quiet)
        return ray
    outcome: list[BaseException | None] = []

    def join():
        try:
            ray.init(on, **quiet)
            outcome.append(None)
        except BaseException as error:  # SystemExit too
            outcome.append(error)

    joining = threading.Thread(target=join, daemon=True)  # can be left behind: Ray's own limits are minutes
    joining.start()
    joining.join(CONNECT_S)
    if not outcome:
        raise UserError(f"no Ray cluster answered at {on} within {CONNECT_S:g} s: what listens there may be something else")
    if outcome[0] is not None:
        raise UserError(f"Ray could not join {on}: {_last_line(outcome[0])} (a cluster that asks for a token is told it "
                        "by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, here as there)")
    return ray


def leave() -> None:
    """Leave the cluster that `connect` has joined; Ray ends the workers with it."""
    global _connected
    _crew.clear()
    if _connected is not None:
        sys.modules["ray"].shutdown()
    _connected = None


async def processes_for(on: str, shape: Shape) -> int:
    """How many workers a load needs: as many as this machine's calibration says, at least one a host, at most one a
    processor of the cluster."""
    ray = connect(on)
    processors = [n for node in ray.nodes() if node["Alive"] and (n := int(node["Resources"].get("CPU", 0)))]
    found = calibration.current()
    wanted = math.ceil(shape.concurrency / found.streams) if found and found.streams and isinstance(shape, Closed) else 1
    return max(1, min(max(wanted, len(processors)), sum(processors)))


async def _members(ray, count: int) -> list[_Member]:
    """`count` workers, those of earlier series first. Raises UserError if one does not come, or runs something else
    than this process does."""
    remote = ray.remote(RemoteWorker).options(num_cpus=1, scheduling_strategy="SPREAD", max_restarts=0)
    _crew.extend(_Member(remote.remote()) for _ in range(count - len(_crew)))
    crew = _crew[:count]
    for member, about in zip(crew, await asyncio.gather(*(m.ask("about", limit_s=START_LIMIT_S) for m in crew))):
        member.host, member.machine, member.clock_name = about["host"], about["machine"], about["clock"]
        _compare(about, versions())
    return crew


def _compare(about: dict, ours: dict[str, str]) -> None:
    other = [f"{name} {about['versions'].get(name)} there, {version} here"
             for name, version in ours.items() if about["versions"].get(name) != version]
    if other:
        raise UserError(f"the load worker on {about['host']} would measure differently ({'; '.join(other)}): "
                        "install the same checkout on every host")


async def _clocks(crew: list[_Member]) -> dict[str, Clock]:
    """Relate the clocks anew, each once, however many workers read it."""
    one_each = {member.clock_name: member for member in crew}
    return {name: await member.relate(Clock()) for name, member in one_each.items()}


async def carry_out(plans: list[Plan], watch, on: str) -> list[dict]:
    """Carry out one plan a worker -> how each fared (lib.driver's health, and `host`, `clock_offset_s` and
    `clock_error_s` at the start, `clock_drift_s` from then to the end, `start_late_s`). `watch` is lib.load's.

    A worker that is lost ends the series with one line, as here: with some of its streams gone it is no longer the
    load that was asked for, and no figure should mix the two. The rows that came stay. Raises UserError.
    """
    ray = connect(on)
    processors = int(ray.cluster_resources().get("CPU", 0))
    if processors < len(plans):
        raise UserError(f"{len(plans)} load workers were asked for and the cluster has {processors} processors: each needs one")
    every = max(REPORT_EVERY_S, len(plans) / POLLS_PER_S)
    attending: list[asyncio.Task] = []
    with Sink(plans[0].path) as sink:
        try:
            crew = await _members(ray, len(plans))
            _reachable(plans[0].url, crew)
            before = await _clocks(crew)
            for member in crew:
                member.clock = before[member.clock_name]
            known = [member.clock.now() for member in crew]
            await asyncio.gather(*(m.ask("prepare", _far(plan), m.clock.now(), limit_s=START_LIMIT_S)
                                   for m, plan in zip(crew, plans)))
            start_at = time.monotonic() + 0.3 + 0.003 * len(crew)  # time for the word to reach all of them
            await asyncio.gather(*(m.ask("go", start_at + m.clock.now()[0]) for m in crew))
            attending += [asyncio.create_task(_attend(m, crew, sink, watch, every)) for m in crew]
            done, _ = await asyncio.wait(attending, return_when=asyncio.FIRST_EXCEPTION)  # gather would cancel them
            health = [task.result() for task in sorted(done, key=attending.index)]
            after = await _clocks(crew)
        except BaseException:  # Ctrl-C too: what is in flight becomes rows before the cell ends
            await asyncio.shield(_break_off(ray, attending, every))
            raise
    return [found | {"host": member.host, "clock_offset_s": offset, "clock_error_s": error,
                     "clock_drift_s": after[member.clock_name].now()[0] - offset}
            for member, found, (offset, error) in zip(crew, health, known)]


async def _attend(member: _Member, crew: list[_Member], sink: Sink, watch, every: float) -> dict:
    """Fetch a worker's rows until its part is over -> its health."""
    while True:
        await asyncio.sleep(every)
        sent = time.monotonic()
        came, left, lines, briefs, outcome = await member.ask("take", member.clock.now())
        member.clock.exchange(sent, came, left, time.monotonic())
        if lines:
            sink.append(lines)
            watch.rows(briefs)
        if word := watch.enough():
            await asyncio.gather(*(m.ask(word) for m in crew))
        if isinstance(outcome, str):
            raise UserError(f"a load worker on {member.host} failed: {outcome}")
        if outcome is not None:
            return outcome


async def _break_off(ray, attending: list[asyncio.Task], every: float) -> None:
    """End what is in flight, fetch the rows of it, and let the actors go: they may be in any state."""
    if attending:
        telling = [asyncio.create_task(member.ask("abort")) for member in _crew]
        await asyncio.wait([*telling, *(t for t in attending if not t.done())], timeout=3 + every)
        for task in (*telling, *attending):
            task.cancel()
        await asyncio.gather(*telling, *attending, return_exceptions=True)
    for member in _crew:
        try:
            ray.kill(member.actor)
        except Exception:  # it is gone, or the cluster is
            pass
    _crew.clear()


def _reachable(url: str, crew: list[_Member]) -> None:
    if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        others = sorted({m.host for m in crew if m.machine != here()["machine"]})
        if others:
            raise UserError(f"the server's address {url} is this machine's own, and the load would come from "
                            f"{', '.join(others)}: give an address that they can reach")


class _Share:
    """Every `parts`-th item of a list, found under its number in the whole: a worker is sent no more than its part."""

    def __init__(self, items: list, part: int, parts: int):
        self._items, self._parts = items[part::parts], parts

    def __getitem__(self, index: int):
        return self._items[index // self._parts]


def _far(plan: Plan) -> Plan:
    workload = plan.workload
    return replace(plan, path=None, workload=_Share(workload, plan.part, plan.parts) if isinstance(workload, list) else workload)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
