"""What was written down can be read again, and a cut-off file gives what it has."""
import json

from lib import records
from lib.records import Record, Sink


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [Record("s", i, sent=10.0 - i, first=11.0, text="图里有 \"什么\"\n", reads=[[0.5, 2]]) for i in range(3)]
    with Sink(tmp_path / "a" / "s.jsonl") as sink:
        for row in rows:
            sink.write(row)
    frame = records.read(tmp_path / "a" / "s.jsonl")
    assert frame["index"].tolist() == [2, 1, 0], "rows stand in the order of sending"
    assert frame["text"].iloc[0] == rows[0].text and frame["reads"].iloc[0].tolist() == [[0.5, 2.0]]
    assert frame.attrs["torn_lines"] == 0


def test_a_row_is_on_disk_as_soon_as_its_request_ended(tmp_path):
    sink = Sink(tmp_path / "s.jsonl")
    sink.write(Record("s", 0))
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 1
    sink.close()


def test_a_torn_last_line_is_left_out_and_counted(tmp_path):
    path = tmp_path / "s.jsonl"
    with Sink(path) as sink:
        sink.write(Record("s", 0, sent=1.0))
        sink.write(Record("s", 1, sent=2.0))
    path.write_bytes(path.read_bytes()[:-20])
    frame = records.read(path)
    assert frame["index"].tolist() == [0] and frame.attrs["torn_lines"] == 1


def test_a_row_from_another_version_keeps_what_is_known(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"series": "s", "index": 4, "novelty": 1}) + "\n[]\n")
    frame = records.read(path)
    assert frame["index"].tolist() == [4] and list(frame.columns) == records.FIELDS
