"""A figure that is not the server's is said not to be, with its reason."""
import dataclasses

import numpy as np
import pytest
from scipy import signal

from lib import verdicts
from lib.verdicts import Evidence, judge

CALM = {"cpu_share": 0.2, "wait_share": 0.01, "lag_p50_ms": 0.1, "lag_p99_ms": 2.0}
GOOD = Evidence(sent=100, failed=0, streams=8, tokens_per_s=1000.0, client=[CALM], capacity=(40_000.0, 256),
                cached_share=0.02)
STEADY = np.random.default_rng(1).normal(10, 1, 100)


def test_a_series_with_nothing_against_it_is_valid():
    assert judge(STEADY, GOOD) == "valid"


@pytest.mark.parametrize("kind, change", [
    ("errors", {"failed": 2}),
    ("client-bound", {"client": [CALM, CALM | {"cpu_share": 0.97}]}),
    ("client-bound", {"client": [CALM | {"wait_share": 0.3}]}),
    ("client-bound", {"client": [CALM | {"lag_p99_ms": 40.0}]}),
    ("client-bound", {"client": [CALM | {"lag_p50_ms": 4.0}]}),
    ("client-bound", {"tokens_per_s": 60_000.0}),
    ("cache-warm", {"cached_share": 0.8}),
    ("throttled", {"throttled": ("power cap",)}),
])
def test_each_reason_against_a_series_is_found_and_named(kind, change):
    said = judge(STEADY, dataclasses.replace(GOOD, **change))
    assert said.startswith(kind) and kind in verdicts.KINDS and "\n" not in said


def test_late_delivery_speaks_against_the_tokens_after_the_first_alone_and_not_where_the_client_was_late_itself():
    late = dataclasses.replace(GOOD, late_pct=59.0)
    assert judge(STEADY, late) == "valid" and "59% longer" in judge(STEADY, late, decode=True)
    assert judge(STEADY, late, decode=True).startswith("delivery-bound:") and "delivery-bound" in verdicts.KINDS
    assert "delivery-bound" not in judge(STEADY, dataclasses.replace(late, client=[CALM | {"cpu_share": 0.97}]), decode=True)


def test_two_workers_carry_twice_what_one_was_calibrated_for():
    assert judge(STEADY, dataclasses.replace(GOOD, tokens_per_s=60_000.0, client=[CALM, CALM])) == "valid"


def test_a_cache_that_is_meant_to_be_hit_is_no_fault():
    assert judge(STEADY, dataclasses.replace(GOOD, cached_share=0.8, cache_expected=True)) == "valid"


def test_a_worker_whose_waiting_is_not_known_is_judged_by_the_rest():
    assert judge(STEADY, dataclasses.replace(GOOD, client=[CALM | {"wait_share": None}])) == "valid"


def test_few_values_are_too_few():
    assert judge(STEADY[:5], GOOD).startswith("too few samples: 5")


@pytest.mark.parametrize("rho, least, most", [(0.6, 0, 2), (0.98, 60, 100)])
def test_values_so_alike_that_nothing_tells_how_little_they_say_are_too_few_and_others_are_not(rho, least, most):
    rng, marked = np.random.default_rng(2), 0
    for _ in range(100):
        wandering = 10 + signal.lfilter([1], [1, -rho], rng.normal(size=1100) * np.sqrt(1 - rho**2))[-40:]
        marked += judge(wandering, GOOD).startswith("too few samples: 40, each so like the one before")
    assert least <= marked <= most


def test_a_slow_beginning_is_a_warm_up_and_a_slow_end_is_not():
    slow_first = np.concatenate([STEADY[:10] * 2, STEADY[10:]])
    assert judge(slow_first, GOOD).startswith("warming up")
    assert "warming up" not in judge(slow_first[::-1], GOOD)
    assert "warming up" not in judge(slow_first, GOOD, time=False)


def test_a_drift_is_named_with_its_direction():
    assert "rises" in judge(STEADY + np.linspace(0, 8, 100), GOOD)


@pytest.mark.parametrize("share", [0.27, 0.5, 0.74])
@pytest.mark.parametrize("n", [30, 40, 400])
def test_a_server_that_slows_down_once_is_found_wherever_it_did(n, share):
    jump = np.resize(STEADY, n) * np.where(np.arange(n) < share * n, 1, 10)
    assert judge(jump, GOOD).startswith("unstable: it rises: nearly all")
    assert judge(jump[::-1], GOOD, time=False).startswith("unstable: it falls: nearly all")


def test_several_reasons_are_all_said():
    said = judge(STEADY, dataclasses.replace(GOOD, failed=50, cached_share=0.5))
    assert said.startswith("errors") and "; cache-warm" in said


def test_quarters_do_not_part_by_chance():
    rng = np.random.default_rng(3)
    assert sum("nearly all" in judge(rng.lognormal(0, 0.5, 28), GOOD) for _ in range(2000)) <= 2


def test_a_steady_series_is_rarely_called_unstable():
    rng = np.random.default_rng(5)
    wrong = sum(judge(rng.lognormal(0, 0.5, 100), GOOD) != "valid" for _ in range(500))
    assert wrong <= 5


def test_a_drift_too_small_to_matter_is_not_called_unstable():
    drift = 5 + np.linspace(0, 0.01, 100)  # 0.2 % from end to end, in perfect order
    assert judge(drift, GOOD) == "valid"
