"""What must not be published is found in whatever form it comes, and ordinary words are left alone."""
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import secrets

PLANTED = {
    "sk-proj-Abc123Def456Ghi789": "an API key",
    "--api-key 7f3a9c1e5b2d4680": "an API key",
    'export WORKBOOK_API_KEY="Zq8Lm2Xw9Pk4"': "an API key",
    "password: hunter2hunter2": "an API key",
    "AKIAIOSFODNN7EXAMPLE": "an API key",
    "hf_QwErTyUiOpAsDfGhJkLz": "a Hugging Face token",
    "ghp_0123456789abcdefghijABCDEFGHIJ": "a GitHub token",
    "Authorization: Bearer a1b2c3d4e5f6g7": "a bearer token",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl": "a signed token",
    "-----BEGIN RSA PRIVATE KEY-----": "a private key",
    "https://me:s3cr3tpass@hub.example/x": "a password in a URL",
    "https://hub.example/x?a=1&token=abcdef": "a token in a URL",
    "see /home/maria/models": "a home folder",
    "/Users/maria": "a home folder",
    "cache in /root/.cache": "a home folder",
    r"C:\Users\maria\x": "a home folder",
    "at 10.20.30.40:8000": "an address",
    "http://gpu-host:8000/v1": "a host name",
    "ray://head:10001": "a host name",
    "on node7.cluster.internal": "a host name",
}
HARMLESS = [
    "vLLM 0.32.0, torch 2.13.0+cpu, driver 535.183.01", "http://127.0.0.1:8000/v1", "http://localhost:8000", "max_tokens: 100",
    'curl -H "Authorization: Bearer $WORKBOOK_API_KEY"', "TTFT for one more picture token: 0.55 ms", "2026-11-23_150258_smoke",
    "the password is asked for", "WORKBOOK_API_KEY is written nowhere", "requests/single.jsonl", "Linux 6.18.44-fc-v669", "1 token/s",
]


@pytest.mark.parametrize("text, kind", PLANTED.items())
def test_a_planted_secret_is_found_with_its_line_and_not_repeated(text, kind):
    found = [f for f in secrets.find(f"first line\nbefore {text} after") if f.kind == kind]
    assert found and found[0].line == 2
    assert len(found[0].secret) < 4 or found[0].secret not in found[0].shown


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_words_are_no_secrets(text):
    assert secrets.find(text) == []


def test_known_hosts_and_keys_are_found_as_they_are():
    found = secrets.find("served by Ampere, key plainlookingkey", hosts=("ampere",), values=("plainlookingkey", "short"))
    assert {f.kind for f in found} == {"a host name of this run", "a key of this environment"}


@pytest.mark.parametrize("address, host", [("shape:Qwen3-VL-2B-Instruct", ""), ("http://gpu-host:8000/v1", "gpu-host"), ("ray://HEAD:10001", "head"), ("head:6379", "head"),
                                           ("http://127.0.0.1:8000", ""), ("localhost:80", ""), ("auto", "auto"), ("http://[bad", ""), ("http://host:8000", ""),
                                           ("http://host-3fa2c1:8000", "")])
def test_the_host_of_an_address(address, host):
    assert secrets.host(address) == host


@given(st.text())
def test_any_text_is_scanned_without_an_error(text):
    assert all(f.line >= 1 and f.secret for f in secrets.find(text))


@pytest.mark.parametrize("piece", ["a.", "a-", "sk-", "eyJ", "api_key ", "1.", "://a", "/home", "hf_a", "bearer ", "b_", "password=a"])
def test_repetition_is_not_a_way_to_stop_the_scan(piece):
    began = time.process_time()
    secrets.find(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 20  # quadratic behaviour takes minutes
