"""The journal alone: no record is lost, no point is doubled, and a full disk or a torn file ends nothing."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.tracking.journal import Journal, Reader, flatten, read_points
from xray_det.tracking.outbox import Outbox

matplotlib.use("Agg")


def segments(run: Path) -> list[Path]:
    return sorted((run / "tracking" / "journal").iterdir())


def test_points_of_a_resumed_run_count_once_and_the_first_stands(tmp_path: Path) -> None:
    with Journal(tmp_path, "rank0") as first:
        for step in range(8):
            first.log({"loss": 10 - step}, step)
    with Journal(tmp_path, "rank0") as resumed:  # from a checkpoint at step 5: steps 5, 6, 7 pass again
        for step in range(5, 10):
            resumed.log({"loss": 100 + step, "lr": 0.1}, step)

    points = read_points(tmp_path)

    assert points["loss"] == {**{step: 10.0 - step for step in range(8)}, 8: 108.0, 9: 109.0}
    assert list(points["lr"]) == [5, 6, 7, 8, 9]
    metrics = [r["metrics"] for _, _, r in _pending(Outbox(tmp_path, "sqlite:///x"))]
    assert sum("loss" in m for m in metrics) == 10
    assert metrics[8] == {"lr": 0.1}  # of a record, only the repeated point is dropped


def test_a_record_is_on_the_file_system_when_log_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "rank0")  # never closed: as if killed
    journal.log({"loss": np.float32(0.5), "bad": float("nan")}, np.int64(3))
    record = json.loads(segments(tmp_path)[0].read_text())
    assert record["metrics"]["loss"] == 0.5
    assert np.isnan(record["metrics"]["bad"])
    assert record["step"] == 3
    journal.close()


def test_half_a_record_at_the_end_of_a_killed_writer_is_passed_over(tmp_path: Path) -> None:
    with Journal(tmp_path, "rank0") as journal:
        journal.log({"loss": 1}, 1)
        journal.log({"loss": 2}, 2)
    segment = segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes()[:-7])
    with Journal(tmp_path, "rank0") as journal:
        journal.log({"loss": 3}, 3)
    assert read_points(tmp_path)["loss"] == {1: 1.0, 3: 3.0}


def test_a_full_disk_keeps_records_and_writes_them_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = os.write, [True]

    def short_write(descriptor: int, payload: bytes) -> int:
        if not full[0]:
            return write(descriptor, payload)
        if len(payload) > 5:
            return write(descriptor, payload[:5])  # the last bytes that fit: half a record
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path, "rank0")
    monkeypatch.setattr(os, "write", short_write)
    for step in range(3):
        journal.log({"loss": step}, step)
    assert read_points(tmp_path) == {}
    full[0] = False
    journal.log({"loss": 3}, 3)
    journal.close()

    assert read_points(tmp_path)["loss"] == {0: 0, 1: 1, 2: 2, 3: 3}
    assert sum("wait in memory" in message for message in caplog.messages) == 1


def test_threads_and_writers_do_not_mix_lines(tmp_path: Path) -> None:
    with Journal(tmp_path, "rank0") as one, Journal(tmp_path, "rank0") as other:

        def write(journal: Journal, name: str) -> None:
            for step in range(200):
                journal.log({name: step}, step)

        threads = [
            threading.Thread(target=write, args=(j, f"{i}{n}")) for i, j in enumerate((one, other)) for n in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    points = read_points(tmp_path)
    assert {name: len(steps) for name, steps in points.items()} == dict.fromkeys(("0a", "0b", "1a", "1b"), 200)


def test_the_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path))
    assert list(reader.new()) == []
    with Journal(tmp_path, "a") as journal:
        journal.tags({"x": 1})
        assert [r["tags"] for _, _, r in reader.new()] == [{"x": "1"}]
        journal.tags({"y": 2})
        again = Reader(str(tmp_path), dict(reader.offsets))
        assert [r["tags"] for _, _, r in again.new()] == [{"y": "2"}]


def test_what_was_sent_is_remembered_for_each_address(tmp_path: Path) -> None:
    with Journal(tmp_path, "a") as journal:
        for step in range(5):
            journal.log({"loss": step}, step)
    outbox = Outbox(tmp_path, "http://one")
    outbox.read()
    outbox.sent(3)
    assert Outbox(tmp_path, "http://one").left() == 2
    assert Outbox(tmp_path, "http://two").left() == 5
    outbox.start_again()
    assert outbox.left() == 5


def test_figure_table_and_json_are_files_of_the_run(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots()
    axes.plot([1, 2])
    with Journal(tmp_path, "driver") as journal:
        picture = journal.figure("curve", figure)
        table = journal.table("bands", [{"band": "head", "AP": np.float64(0.5)}, {"band": "tail", "AP": float("nan")}])
        journal.json("config", {"a": 1})
    plt.close(figure)
    assert Image.open(picture).format == "PNG"
    assert json.loads(Path(table).read_text()) == {"columns": ["band", "AP"], "data": [["head", 0.5], ["tail", None]]}
    kinds = [(r["artifact"], r["kind"]) for _, _, r in _pending(Outbox(tmp_path, "u"))]
    assert kinds == [("figures/curve.png", "file"), ("tables/bands.json", "table"), ("config.json", "file")]


def test_an_unwritable_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file" / "run", "driver")


def test_an_object_store_gets_whole_segments(tmp_path: Path) -> None:
    """file:// goes through pyarrow like s3:// does; here the journal is told that it has no append."""
    journal = Journal(tmp_path, "rank0")
    journal._local = False
    journal.log({"loss": 1}, 1)
    assert segments(tmp_path) == []
    journal.flush()
    assert read_points(tmp_path)["loss"] == {1: 1.0}
    journal.log({"loss": 2}, 2)
    journal.close()
    assert read_points(tmp_path)["loss"] == {1: 1.0, 2: 2.0}
    assert len(segments(tmp_path)) == 1


@given(
    st.recursive(
        st.integers() | st.text(max_size=5),
        lambda children: st.dictionaries(st.text("abc", min_size=1, max_size=3), children, max_size=4),
        max_leaves=12,
    )
)
def test_flatten_keeps_every_leaf_at_its_path(value: Any) -> None:
    config = {"root": value}

    def leaves(node: Any, path: str) -> dict[str, Any]:
        if isinstance(node, dict) and node:
            return {k: v for key, child in node.items() for k, v in leaves(child, f"{path}.{key}").items()}
        return {path: node}

    assert flatten(config) == leaves(value, "root")


def test_flatten_lists() -> None:
    phases = [{"lam": 0.0}, {"lam": 0.7}]
    assert flatten({"phases": phases, "sides": (320, 640), "none": []}) == {
        "phases.0.lam": 0.0,
        "phases.1.lam": 0.7,
        "sides": (320, 640),
        "none": [],
    }


def _pending(outbox: Outbox) -> list[tuple[str, int, dict[str, Any]]]:
    outbox.read()
    return outbox.pending
