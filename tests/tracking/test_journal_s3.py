"""The journal of a run folder on an object store that refuses for a while: no record is lost, no point is doubled."""

import time

import pytest
from servers.object_store import ObjectStore, stored

from xray_det.tracking import journal as journal_module
from xray_det.tracking.journal import Journal, Reader, read_points
from xray_det.tracking.outbox import Outbox

pytestmark = pytest.mark.medium


@pytest.fixture
def run(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(journal_module, "REMOTE_FLUSH_SECONDS", 0.2)
    return f"{s3.new_bucket()}/runs/a"


def test_records_wait_in_memory_and_the_training_does_not(s3: ObjectStore, run: str) -> None:
    writer, longest = Journal(run, "rank0"), 0.0
    s3.proxy.refuse(4)
    for step in range(300):
        began = time.perf_counter()
        writer.log({"loss": 1 / (step + 1), "lr": 0.1}, step)
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.02)
    writer.log({"loss": 7.0}, 299)  # passed again after a resume
    writer.close()
    assert longest < 2
    assert read_points(run) == {"loss": {s: 1 / (s + 1) for s in range(300)}, "lr": dict.fromkeys(range(300), 0.1)}
    outbox = Outbox(run, "http://h")
    assert outbox.left() == 300
    outbox.sent(300)
    assert Outbox(run, "http://h").left() == 0


def test_segments_stay_small_and_are_read_from_where_reading_stopped(
    s3: ObjectStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "REMOTE_SEGMENT_BYTES", 10_000)
    writer, reader, records = Journal(run, "rank0"), Reader(run), 0
    for step in range(300):
        writer.log({"loss": step}, step)
        if step % 30 == 29:
            writer.flush()
            before = s3.proxy.read_bytes
            records += sum(1 for _ in reader.new())
            assert records == step + 1
            assert s3.proxy.read_bytes - before < 10_000, "30 records and a list of segments"
    writer.close()
    sizes = stored(s3.client(), run.rpartition("/runs")[0])
    assert len(sizes) > 1
    assert max(sizes.values()) < 20_000


def test_what_could_not_be_written_before_the_end_is_said(
    s3: ObjectStore, run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XRAY_DET_STORAGE_PATIENCE_S", "0.5")
    writer = Journal(run, "rank0")
    writer.log({"loss": 1}, 0)
    writer.flush()
    with s3.proxy.refusing():
        for step in range(1, 4):
            writer.log({"loss": 1}, step)
        writer.close()
    assert "records wait in memory" in caplog.text
    assert "3 records could not be written and are lost" in caplog.text
    assert list(read_points(run)["loss"]) == [0]
