"""What can be known beforehand is told in one line, before anything is sent."""
import resource

import pytest

from lib import catalog, plans, preflight
from lib.errors import UserError


@pytest.mark.parametrize("name, value, words", [
    ("concurrency", [4, 0], "at least 1"), ("concurrency", [-2], "at least 1"), ("concurrency", [], "empty"),
    ("concurrency", ["a"], "whole number"), ("concurrency", [1.5], "whole number"), ("most_streams", 0, "at least 1"),
    ("endurance_streams", 10**9, "ulimit -n"), ("concurrency", [1, 10**9], "file descriptor"),
    ("level_seconds", 0.0, "greater than 0"), ("endurance_seconds", float("nan"), "greater than 0"),
    ("ttft_target_ms", 0.0, "cannot be met"), ("tpot_target_ms", -1.0, "cannot be met"),
    ("open_fractions", [0.5, 0], "greater than 0"), ("open_fractions", [], "empty"),
    ("turns", 0, "at least 1"), ("ocr_pictures", 2.5, "at least 1"), ("talks_at_once", -1, "at least 1"),
    ("picture_streams", [2, 0], "at least 1"), ("picture_rounds", 0, "at least 1"), ("ocr_streams", 10**9, "ulimit -n"),
    ("requests", 0, "at least 1"), ("requests", -5, "at least 1"), ("max_tokens", -3, "at least 2"), ("max_tokens", 1, "at least 2"),
    ("temperature", -1.0, "at least 0"), ("temperature", float("nan"), "at least 0"), ("warmup", -1, "at least 0"), ("seed", -1, "at least 0"),
    ("single_seconds", -1.0, "at least 0"), ("questions", 0, "at least 1"), ("streams", [], "empty"), ("seconds", 0.0, "greater than 0"),
    ("load_tokens", 0, "at least 1"), ("context_tokens", -1, "at least 0"), ("think_s", -0.5, "at least 0"), ("picture_sizes", [], "empty"),
])
def test_what_cannot_be_is_refused_in_one_line(name, value, words):
    with pytest.raises(UserError, match=words) as refusal:
        preflight.check(**{name: value})
    assert "\n" not in str(refusal.value) and name in str(refusal.value)


@pytest.mark.parametrize("file", sorted(catalog.PROFILES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_number_of_a_notebook_and_of_a_profile_has_a_check_and_passes_it(file):
    declared = {k: v for notebook in catalog.all_notebooks() for k, v in catalog.declared_parameters(notebook).items()}
    unchecked = [k for k, v in declared.items() if type(v) in (int, float, list) and k not in preflight.CHECKS]
    assert unchecked == []
    preflight.check(**declared | catalog.load_profile(file.stem))


def test_a_profile_with_a_wrong_number_is_refused_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("requests: -5\n")
    monkeypatch.setattr(catalog, "PROFILES", tmp_path)
    with pytest.raises(UserError, match="requests -5: give a whole number of at least 1"):
        plans.make("mine", "embedded", [], {})


def test_what_can_be_passes_and_unknown_parameters_do_too():
    preflight.check(concurrency=[1, 8], level_seconds=5.0, ttft_target_ms=200.0, open_fractions=[0.5, 1], something="else")


def test_a_list_may_come_as_papermill_hands_it_over():
    assert preflight.listed("[1, 2, 4]") == preflight.listed([1, 2, 4]) == [1, 2, 4] and preflight.listed("8") == [8]
    with pytest.raises(UserError, match="not readable"):
        preflight.listed("[1, ")


def test_as_many_streams_as_there_are_descriptors_are_too_many(monkeypatch, capsys):
    """And where the system allows more than the user's limit, that is raised, and said."""
    limits = [500, 1000]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(slice(None), new))
    preflight.check(concurrency=[400])
    assert capsys.readouterr().out == "" and limits == [500, 1000]
    preflight.check(concurrency=[900])
    assert "was 500 and has been raised to 1,000" in capsys.readouterr().out and limits == [1000, 1000]
    with pytest.raises(UserError, match="take at most 936"):
        preflight.check(concurrency=[1000])


def test_a_window_must_hold_a_whole_request():
    preflight.window("level_seconds", 5.0, 0.5)
    with pytest.raises(UserError, match="level_seconds 0.1 s is shorter") as refusal:
        preflight.window("level_seconds", 0.1, 0.5)
    assert "\n" not in str(refusal.value)
