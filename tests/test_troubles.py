"""Each entry of the table finds what vLLM really wrote: logs and replies recorded from it by tests/record_troubles.py."""
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import cli, health, troubles
from lib.errors import UserError

RECORDED = Path(__file__).parent / "data" / "troubles"
REPLIES = {row["mistake"]: row for row in json.loads((RECORDED / "requests.json").read_text(encoding="utf-8"))}
PROVOKED = [t for t in troubles.of_kind("start") if t.provoke]


def log_of(trouble: troubles.Trouble) -> str:
    name = re.sub(r"\W+", "-", trouble.name).strip("-")
    return (RECORDED / f"{name}.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("trouble", PROVOKED, ids=lambda t: t.name)
def test_a_recorded_start_is_diagnosed_as_what_was_provoked(trouble):
    """Its own entry, not one that stands before it, and the line that readers see is in the log."""
    log = log_of(trouble)
    assert troubles.diagnose(log).startswith(trouble.name)
    assert trouble.line and trouble.line in log
    assert trouble.found_in(trouble.line + "\n") is not None, "the line that is shown is the one that is looked for"


@pytest.mark.parametrize("trouble", troubles.of_kind("request"), ids=lambda t: t.name)
def test_a_recorded_reply_is_known_by_its_entry(trouble):
    row = REPLIES[trouble.name]
    assert row["client sees"] not in ("no error", "not tried")
    assert trouble.found_in(row["message"]) is not None, row["message"]
    assert trouble.line and trouble.line in row["message"]


def test_every_entry_was_provoked_or_says_why_not():
    for trouble in troubles.table():
        assert sum(map(bool, (trouble.provoke, trouble.request, trouble.not_here, trouble.sign))) == 1, trouble.name
        assert trouble.remedy and (trouble.line or trouble.sign)
    assert len({t.name for t in troubles.table()}) == len(troubles.table())


@pytest.mark.parametrize("trouble", [t for t in troubles.of_kind("start") if t.not_here], ids=lambda t: t.name)
def test_what_could_not_be_provoked_here_is_found_in_the_wording_of_vllm(trouble):
    assert troubles.diagnose(trouble.line).startswith(trouble.name)


def test_recorded_logs_tell_nothing_about_the_machine():
    for path in RECORDED.iterdir():
        assert not re.search(r"/(?:root|home|work|tmp)/", path.read_text(encoding="utf-8")), path.name


def test_a_sound_log_is_no_trouble(server):
    assert troubles.diagnose(server.log.read_text(encoding="utf-8", errors="replace")) is None


def test_mistakes_are_provoked_on_a_running_server_and_told_by_their_own_entries(server):
    rows = health.provoke(server)
    assert rows["mistake"].tolist() == [t.name for t in troubles.of_kind("request")]
    assert isinstance(rows, pd.DataFrame) and not rows["client sees"].eq("no error").any()
    tried = rows[rows["client sees"] != "not tried"]
    assert len(tried) >= len(rows) - 1, "only a picture larger than the context cannot be had on every server"
    for trouble, message in zip(troubles.of_kind("request"), rows["message"]):
        assert message in tried["message"].values or "no picture fills" in message
        assert "no picture fills" in message or trouble.found_in(message) is not None, (trouble.name, message)


@pytest.mark.parametrize("queue, prefill, cause", [(900.0, 30.0, "the queue"), (5.0, 900.0, "the prefill"), (math.nan, math.nan, "not told")])
def test_a_late_first_token_is_put_down_to_what_took_the_time(queue, prefill, cause):
    agreement = pd.DataFrame({"quantity": ["TTFT, of it queue", "TTFT, of it prefill"], "server": [queue, prefill]})
    alone, rush = (SimpleNamespace(frame=pd.DataFrame({"ttft_s": ttft}), agreement=agreement) for ttft in ([0.02], [0.5, 1.5, 2.5, None]))
    told = health.late_first_tokens(alone, rush)
    assert told["what it is"].startswith(cause) and told["later than 1 s"] == "2 of 3"


def test_the_doctor_reads_a_log(tmp_path, capsys):
    log = tmp_path / "server.log"
    log.write_text(log_of(PROVOKED[0]), encoding="utf-8")
    with pytest.raises(SystemExit):
        cli_run("doctor", "--log", str(log))
    assert f"BAD  {log.name}: {PROVOKED[0].name}" in capsys.readouterr().out


def test_the_doctor_tells_that_there_is_no_such_log():
    with pytest.raises(UserError, match="cannot be read"):
        cli.app(["doctor", "--log", "no/such.log"], standalone_mode=False)


def cli_run(*words: str) -> None:
    raise SystemExit(cli.app(list(words), standalone_mode=False))
