"""What must not be seen is hidden on its way out, whatever it stands in; what is no secret goes out as it is."""
import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import hiding, secrets
from lib.errors import UserError
from test_secrets import HARMLESS, PLANTED


@pytest.fixture(autouse=True)
def own_book(tmp_path, monkeypatch):
    """A book of hosts, and an environment, of this test's own."""
    monkeypatch.setattr(hiding, "OUTPUTS", tmp_path)
    monkeypatch.setattr(hiding, "_learned", {"hosts": set(), "values": set()})
    hiding.learn()
    yield tmp_path / ".hosts"
    hiding.known.cache_clear()


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_secret_is_hidden_and_what_stands_around_it_stays(text):
    hidden = hiding.hide(f"first line\nbefore {text} after")
    assert secrets.find(hidden) == [] and hidden.startswith("first line\nbefore") and hidden.endswith("after")
    assert hiding.hide(hidden) == hidden


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_words_are_left_alone(text):
    assert hiding.hide(text) == text


@given(st.lists(st.one_of(st.sampled_from([*PLANTED, *HARMLESS]), st.text(max_size=20)), max_size=6), st.sampled_from(["", " ", "\n", "\"", ","]))
def test_no_combination_leaves_a_key_or_a_token(pieces, between):
    left = {f.kind for f in secrets.find(hiding.hide(between.join(pieces)))}
    assert left <= {"a home folder", "a host name", "an address"}  # their marks may run into what follows them


def test_keys_of_the_environment_and_of_a_server_are_hidden_as_they_are(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "plainlookingword")
    monkeypatch.setenv("KEY_FILE", "plainlookingfile")
    hiding.learn("", "anotherplainword")
    assert hiding.hide("plainlookingword, anotherplainword, plainlookingfile") == "***, ***, plainlookingfile"


def test_a_server_keeps_one_mark_by_which_only_this_machine_finds_it(own_book):
    hiding.learn("http://gpu-7.lab.example:8000/v1")
    hiding.learn("http://10.9.8.7:8000")
    hidden = hiding.hide("http://gpu-7.lab.example:8000 is GPU-7.lab.example, 10.9.8.7:8000 is not; 10.1.1.1 is nobody's")
    first, second = dict.fromkeys(hiding.MARK.findall(hidden))
    assert hidden == f"http://{first}:8000 is {first}, {second}:8000 is not; host is nobody's"
    assert hiding.real(f"http://{first}:8000") == "http://gpu-7.lab.example:8000" and secrets.find(hidden) == []
    assert hiding.real("http://host-000000:8000") == "http://host-000000:8000"
    assert stat.S_IMODE(os.stat(own_book).st_mode) == 0o600


def test_a_host_that_is_called_like_a_word_is_hidden_only_where_it_is_a_host():
    hiding.learn("http://vllm:8000")
    hidden = hiding.hide("vLLM 0.32 at http://vllm:8000 (host='vllm', port=8000)")
    assert "vLLM 0.32" in hidden and hidden.count("host-") == 2 and "vllm:" not in hidden


def test_what_stands_for_a_hidden_host_is_no_host_itself():
    hiding.learn("http://host:8000")
    hiding.learn("http://host-3fa2c1:8000")
    assert hiding.known()[0] == () and hiding.hide("a HOST, the host's name") == "a HOST, the host's name"


def test_keys_and_values_of_structures_are_hidden_and_pictures_stay(tmp_path):
    content = {"/home/maria/x": [{"a": "sk-Abc123Def456Ghi789Jkl"}, 1.5, None], "image/png": "hf_QwErTyUiOpAsDfGhJkLz"}
    assert hiding.hide_in(content) == {"~/x": [{"a": "***"}, 1.5, None], "image/png": "hf_QwErTyUiOpAsDfGhJkLz"}
    page = '<img src="data:image/png;base64,' + "hf" * 9000 + 'sk+/"> /home/maria'
    assert hiding.hide(page) == page.replace("/home/maria", "~")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_hidden_is_still_json_of_the_same_form(content):
    hidden = json.loads(json.dumps(hiding.hide_in(content)))
    assert type(hidden) is type(content) and (not isinstance(content, list) or len(hidden) == len(content))


def test_an_error_does_not_repeat_a_secret():
    assert str(UserError("no model in /home/maria/models: password=hunter2hunter2")) == "no model in ~/models: password=***"
