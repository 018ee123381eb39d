"""Plans to go on with a run that was cut off, and to make a finished one again."""
import sys

from lib import catalog, launch, plans, repeat, resume, rundir, time_limit
from lib.errors import UserError


def resumed(word: str, server: str, **given) -> plans.Plan:
    """The plan to go on with a run. given: profile, notebooks, parameters, flags and load as a user may have typed them; None or empty is
    the run's own, and anything else is refused. Raises UserError where there is nothing to go on with, or it cannot be."""
    run = rundir.find(word)
    known = repeat.plan_of(run)
    if reason := repeat.other_version(run):
        raise UserError(f"run {run.name} cannot be gone on with: {reason}; restore that version, or make the run again with --like {run.name}")
    given = given | {"notebooks": list(dict.fromkeys(catalog.find_notebook(n) for n in given.get("notebooks") or []))}
    asked = given.pop("parameters", {})
    other = [f"{key} {known[key]!r}, not {value!r}" for key, value in given.items() if value and value != known[key]]
    other += [f"{key} {known['parameters'].get(key, 'by default')!r}, not {value!r}" for key, value in asked.items()
              if known["parameters"].get(key) != value]
    if other:
        raise UserError(f"run {run.name} was begun with {'; '.join(other)}: leave that out to go on with it, or start another run")
    again = resume.left(run, known["notebooks"])
    if not again and run.info().get("ended"):
        raise UserError(f"run {run.name} is complete, nothing is left to do: `workbook report {run.name}` writes its report again")
    todo = _recorded(known, server, run.name)
    todo.notebooks, todo.resumed = again, True
    return todo


def repeated(word: str, server: str, name: str = "", load: str = "") -> plans.Plan:
    """The plan to make a finished run again, on its own server or another one; where another version of the workbook or of what
    it stands on made it, that is said. Raises UserError."""
    run = rundir.find(word)
    known = repeat.plan_of(run)
    if reason := repeat.other_version(run):
        print(f"run {run.name}: {reason}; what that changes is in the comparison too", file=sys.stderr)
    todo = _recorded(known | ({"load": load} if load else {}), server, name)
    todo.like, todo.within = run.name, time_limit.Within(known["within"])
    return todo


def _recorded(known: dict, server: str, name: str) -> plans.Plan:
    own = launch.named(server) if server != "auto" else known["server"]
    flags = "" if launch.is_url(own) else known["flags"]
    return plans.make(known["profile"], own, known["notebooks"], {}, flags, name, known["load"], known["parameters"])
