"""A run says beforehand how long it will take, and while it runs how much of that is left."""
import io
from datetime import datetime

import pytest
import yaml

from lib import catalog, plans, schedule
from lib.schedule import Schedule


def test_parameters_change_what_is_expected():
    takes = {"seconds": 10, "level_seconds": 2, "levels": 3, "absent": 7}
    assert schedule.expected_s(takes, {"level_seconds": 5, "levels": [1, 2, 4]}) == 10 + 10 + 9


def test_the_plan_shows_when_each_step_will_have_ended():
    lines = Schedule([("02_single", 45.0), ("04_concurrency", 600.0)]).lines(datetime(2026, 1, 1, 12, 0, 0))
    assert "45 s" in lines[0] and "until 12:00:45" in lines[0] and "10 min" in lines[1] and "until 12:10:45" in lines[1]


def test_what_is_left_goes_down_and_a_late_step_holds_up_only_itself():
    plan = Schedule([("a", 10.0), ("b", 20.0), ("c", 5.0)])
    assert [plan.left_s(0, 0), plan.left_s(0, 4), plan.left_s(0, 99), plan.left_s(1, 5), plan.left_s(3, 0)] == [35, 31, 25, 20, 0]


def test_the_bar_shows_the_time_left():
    out = io.StringIO()
    with schedule.Bar(Schedule([("a", 60.0), ("b", 60.0)]), file=out) as bar:
        bar.set_description("a")
        bar.update()
    told = out.getvalue()
    assert "about 02:00 left" in told and ("about 01:00 left" in told or "about 00:59 left" in told)


@pytest.mark.parametrize("profile", ["smoke", "quick", "hour"])
def test_every_profile_can_be_planned_and_tells_its_time(profile):
    todo = plans.make(profile, "http://127.0.0.1:9", [], {})
    told = todo.announced().splitlines()
    assert len(told) == 1 + len(todo.notebooks) and all("until" in line for line in told[1:])
    known = yaml.safe_load((catalog.PROFILES / f"{profile}.yaml").read_text())["takes"]
    assert set(todo.notebooks) <= set(known), "a notebook of which the profile does not say how long it takes"


def test_all_profiles_hold_the_same_parameters():
    kinds = {name: set(catalog.load_profile(name)) for name in ("smoke", "quick", "hour")}
    assert set(catalog.load_profile("tiny")) >= kinds["smoke"]
    assert kinds["smoke"] == kinds["quick"] == kinds["hour"]


def test_the_hour_gives_each_mode_ten_minutes():
    todo = plans.make("hour", "http://127.0.0.1:9", [], {})
    expected = dict(todo.schedule().steps)
    for mode in ("02_single_request", "04_concurrency", "08_endurance"):
        assert expected[mode] == pytest.approx(600, rel=0.05)


def test_smoke_takes_less_than_eight_minutes_and_half_as_long_again_where_it_starts_servers():
    assert plans.make("smoke", "http://127.0.0.1:9", [], {}).schedule().seconds < 480
    assert plans.make("smoke", "embedded", [], {}).schedule().seconds < 720
