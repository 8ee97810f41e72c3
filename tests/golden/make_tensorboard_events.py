"""Prints the TFRecord bytes that tests/train/metrics_test.cpp expects.

    python3 -m venv v && v/bin/pip install tensorboard==2.20.0
    v/bin/python tests/golden/make_tensorboard_events.py > tests/golden/tensorboard_events.txt
"""
import io

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

EVENTS = [
    Event(wall_time=1.5, step=300, summary=Summary(value=[
        Summary.Value(tag="train/loss", simple_value=2.25),
        Summary.Value(tag="lr", simple_value=-0.5)])),
    Event(wall_time=0.25, file_version="brain.Event:2"),
    Event(wall_time=0.25, step=7, session_log=SessionLog(status=SessionLog.START)),
]
for event in EVENTS:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    print(buffer.getvalue().hex())
