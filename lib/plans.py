"""What a run will do: what was asked for, checked before anything is started, and how long it may take."""
import json
from dataclasses import dataclass, field
from datetime import datetime

from lib import catalog, configurations, launch, preflight, reading, schedule, time_limit, vllm_flags
from lib.errors import UserError
from lib.server import plain
from lib.time_limit import REPORT

OURS = ("server", "run_name")  # parameters that the runner itself sets


@dataclass
class Plan:
    """What a run will do, checked before anything is started."""

    profile: str
    server: str
    notebooks: list[str]
    parameters: dict = field(default_factory=dict)
    flags: str = ""
    name: str = ""
    load: str = ""
    takes: dict = field(default_factory=dict)  # what the profile says of the time of each notebook
    resumed: bool = False  # the run of that name is gone on with: `notebooks` are those that are not done
    like: str = ""  # the run that this one repeats
    within: time_limit.Within = field(default_factory=time_limit.Within)

    def schedule(self) -> schedule.Schedule:
        """The notebooks with the seconds that are expected of each."""
        return schedule.Schedule([(name, self._expected(name)) for name in self.notebooks])

    def announced(self) -> str:
        """The plan as it is shown before anything starts, with the start of the server if there is one."""
        start, own = [] if launch.is_url(self.server) or self.needs_no_server() else [("the server's start", self._expected("server"))], self.schedule().steps
        steps = schedule.Schedule(start + own)
        return "\n".join([f"profile {self.profile}, about {schedule.duration(steps.seconds)}:", *steps.lines(datetime.now()),
                          *self.within.shortage(sum(seconds for _, seconds in start), own)])

    def needs_no_server(self) -> bool:
        """Is the report all that is asked for, or left of a run?"""
        return self.notebooks == [REPORT]

    def limit_s(self, name: str) -> float | None:
        """The longest that a notebook may take: see lib.time_limit."""
        declared = catalog.declared_parameters(name)
        usual = declared | catalog.load_profile(self.profile)
        told = {"configurations": lambda value: configurations.read(value).items}  # its length is that of the lists which it names
        usual, asked = ({key: told.get(key, lambda v: v)(values[key]) for key in declared if key in values}
                        for values in (usual, self.parameters))
        return time_limit.limit_s(self._expected(name) if name in self.takes else None, usual, asked, self.takes.get(name, {}))

    def limit(self, name: str) -> time_limit.Limit:
        """That, or less where the run's own time does not last for it."""
        return self.within.limit(self.limit_s(name), name, self.schedule().steps)

    def awaiting_server(self):
        """While inside, who waits for a server knows when the run has no time for it any more."""
        return time_limit.known(self.within.for_a_server(self.schedule().steps))

    def _expected(self, name: str) -> float:
        ours = {"started_here": 0 if launch.is_url(self.server) else 1}  # 06 starts servers only where the run's is one
        return schedule.expected_s(self.takes.get(name, {"seconds": schedule.UNKNOWN_S}), self.parameters | ours)


def make(profile: str, server: str, notebooks: list[str], parameters: dict, flags: str = "", name: str = "", load: str = "",
         recorded: dict | None = None) -> Plan:
    """A plan. Check everything that can be known beforehand. Raises UserError for an unknown profile, notebook or
    parameter and for a value of the wrong type, naming the nearest that exists. recorded: the parameters of an earlier run,
    in place of the profile's."""
    server = launch.addressed(server)
    if launch.is_url(server):
        plain(launch.named(server))
    started_with = launch.words(flags)  # it tells what cannot be read
    chosen = [catalog.find_notebook(n) for n in notebooks] or catalog.all_notebooks()
    content = catalog.load_profile(profile)
    takes = content.pop("takes", {})
    content = content if recorded is None else recorded
    merged = content | parameters
    declared = {n: catalog.declared_parameters(n) for n in catalog.all_notebooks()}
    known = {key: default for parameters_of in declared.values() for key, default in parameters_of.items()}
    for key, value in merged.items():
        if key in OURS:
            raise UserError(f"parameter {key!r} is set by the run itself: use --{'name' if key == 'run_name' else key}")
        if key not in known:
            raise UserError(f"no notebook declares a parameter {key!r}{catalog.nearest(key, known)}")
        if key in parameters and not any(key in declared[n] for n in chosen):
            raise UserError(f"none of the chosen notebooks declares {key!r}: "
                            f"{', '.join(n for n in declared if key in declared[n])} does")
        merged[key] = _typed(key, value, known[key])
    preflight.check(**merged)
    if started_with and not launch.is_url(server):  # vLLM is asked once for all its flags: no longer than a start that fails
        configurations.check_flags(started_with, vllm_flags.known())
    if catalog.TUNING in chosen and not launch.is_url(server):  # hours may pass before that notebook could tell
        from lib import tuning_run  # it imports all that measures, which takes seconds

        tuning_run.checked(merged.get("configurations", known["configurations"]), merged.get("tuning_model") or server, started_with)
    if load:
        from lib import cluster

        cluster.check(load)
    name = name or datetime.now().strftime(f"%Y-%m-%d_%H%M%S_{profile}")
    return Plan(profile, server, list(dict.fromkeys(chosen)), merged, flags, name, load, takes)


def parse_parameters(pairs: list[str]) -> dict:
    """`key=value` pairs -> dict; values are read as YAML (safely), never evaluated."""
    parameters = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            parameters[key] = reading.yaml_text(value)
        except reading.Unreadable:
            raise UserError(f"parameter {key!r}: {value!r} is not readable as a value: quote it")
    return parameters


def _typed(key: str, value, default):
    """`value` as the type of the notebook's own default."""
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is str and not isinstance(value, (list, dict)):
        return "" if value is None else str(value)
    if type(value) is not wanted:
        alone = f": write '{json.dumps([value], ensure_ascii=False)}' for that one" if wanted is list and type(value) in (str, int, float) else ""
        raise UserError(f"parameter {key!r} takes {wanted.__name__} (like {default!r}), not {value!r}{alone}")
    return value
