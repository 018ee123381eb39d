"""A notebook beside a fault that begins in its middle, with real vLLM: it ends in time, with a sentence, and keeps what it has.

One cell of the whole matrix, which scripts/fault_matrix.py runs: the notebook with the most series.
"""
from lib import time_limit
from scripts import fault_matrix


def test_a_notebook_whose_server_dies_ends_with_a_sentence_and_keeps_its_figures(as_user, tmp_path, monkeypatch):
    monkeypatch.setattr(fault_matrix, "MACHINE", tmp_path / "roofline.json")
    monkeypatch.setattr(time_limit, "SPARE_S", fault_matrix.SPARE_S)
    found = fault_matrix.cell(as_user.url, "05_multimodal", "die", requests=80, seed=1)
    assert found["struck"], "the notebook never met the fault"
    assert found["status"] == "failed" and "the server is gone" in found["error"] and not found["traceback"], found
    assert found["rows"] > 0 and found["figures"] > 0, "what was measured is kept"
