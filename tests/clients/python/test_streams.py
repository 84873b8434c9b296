"""Appends to streams and reads of them, with the Python client."""

import threading
from datetime import datetime, timedelta, timezone
from uuid import uuid4

from kurrentdbclient import NewEvent, StreamState
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    KurrentDBClientError,
    MaximumAppendSizeExceededError,
    NotFoundError,
    WrongCurrentVersionError,
)
from support import ClientTest, event, events, ids, revisions

NONE, ANY, EXISTS = StreamState.NO_STREAM, StreamState.ANY, StreamState.EXISTS


class Reading(ClientTest):
    def test_an_event_round_trips_exactly(self):
        stream, given = self.fresh(), event(7, metadata=b'{"by":"ann"}')
        position = self.client.append_to_stream(stream, current_version=NONE, events=given)
        (read,) = self.client.get_stream(stream)
        self.assertEqual((read.id, read.type, read.data, read.metadata), (given.id, given.type, given.data, given.metadata))
        self.assertEqual((read.stream_name, read.stream_position), (stream, 0))
        self.assertEqual((read.commit_position, read.prepare_position), (position, position))
        self.assertEqual(read.content_type, "application/json")
        self.assertLess(abs(datetime.now(timezone.utc) - read.recorded_at), timedelta(minutes=1))

    def test_binary_data_round_trips_exactly(self):
        stream = self.fresh("Übergrößen 100 %")
        given = [
            NewEvent(type="Blob", data=bytes(range(256)), metadata=bytes(range(255, -1, -1)), content_type="application/octet-stream"),
            NewEvent(type="Empty", data=b"", content_type="application/octet-stream"),
            NewEvent(type="Größe", data="{\"Maß\": \"½\"}".encode()),
        ]
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        read = self.client.get_stream(stream)
        self.assertEqual([(e.type, e.data, e.metadata, e.content_type) for e in given], [(e.type, e.data, e.metadata, e.content_type) for e in read])

    def test_a_stream_is_read_in_both_directions_from_any_revision(self):
        stream, given = self.fresh(), events(10)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        read = self.client.get_stream
        self.assertEqual(ids(read(stream)), ids(given))
        self.assertEqual(ids(read(stream, backwards=True)), ids(given)[::-1])
        self.assertEqual(revisions(read(stream, stream_position=4)), [4, 5, 6, 7, 8, 9])
        self.assertEqual(revisions(read(stream, stream_position=4, backwards=True)), [4, 3, 2, 1, 0])
        self.assertEqual(revisions(read(stream, stream_position=4, limit=2)), [4, 5])
        self.assertEqual(revisions(read(stream, stream_position=4, limit=2, backwards=True)), [4, 3])
        self.assertEqual(revisions(read(stream, limit=3)), [0, 1, 2])
        self.assertEqual(revisions(read(stream, limit=3, backwards=True)), [9, 8, 7])
        self.assertEqual(revisions(read(stream, stream_position=10)), [])
        self.assertEqual(revisions(read(stream, stream_position=2**62, backwards=True, limit=1)), [9])

    def test_a_stream_longer_than_a_page_is_read_completely(self):
        stream, given = self.fresh(), events(5000)
        for first in range(0, len(given), 1000):
            state = NONE if first == 0 else first - 1
            self.client.append_to_stream(stream, current_version=state, events=given[first : first + 1000])
        self.assertEqual(ids(self.client.read_stream(stream)), ids(given))
        self.assertEqual(ids(self.client.read_stream(stream, backwards=True)), ids(given)[::-1])

    def test_a_stream_without_events_is_not_found(self):
        stream = self.fresh()
        with self.assertRaises(NotFoundError):
            self.client.get_stream(stream)
        with self.assertRaises(NotFoundError):
            self.client.get_stream(stream, backwards=True)
        self.assertEqual(self.client.get_current_version(stream), NONE)

    def test_a_read_can_be_cancelled(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(2000))
        with self.client.read_stream(stream) as response:
            self.assertEqual(next(response).stream_position, 0)
        self.assertEqual(self.client.get_current_version(stream), 1999)


class Appending(ClientTest):
    def test_positions_and_revisions_increase(self):
        stream, positions = self.fresh(), []
        for number in range(5):
            state = NONE if number == 0 else number - 1
            positions.append(self.client.append_to_stream(stream, current_version=state, events=event(number)))
        self.assertEqual(sorted(set(positions)), positions)
        self.assertEqual([e.commit_position for e in self.client.get_stream(stream)], positions)
        self.assertEqual(self.client.get_current_version(stream), 4)
        self.assertEqual(self.client.get_commit_position(), positions[-1])

    def test_a_wrong_expected_revision_reports_the_actual_one(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(3))
        # A single event uses the unary call, a list the batch call.
        for some in event(), [event()], events(2):
            for state in NONE, 0, 1, 3, 2**40:
                with self.subTest(state=state), self.assertRaises(WrongCurrentVersionError) as refused:
                    self.client.append_to_stream(stream, current_version=state, events=some)
                self.assertEqual(refused.exception.actual_version, 2)
            absent = self.fresh()
            for state in EXISTS, 0:
                with self.subTest(state=state), self.assertRaises(WrongCurrentVersionError) as refused:
                    self.client.append_to_stream(absent, current_version=state, events=some)
                self.assertEqual(refused.exception.actual_version, NONE)
        self.assertEqual(self.client.get_current_version(stream), 2)

    def test_a_right_or_missing_expectation_is_accepted(self):
        stream = self.fresh()
        for state in NONE, 0, ANY, EXISTS:
            self.client.append_to_stream(stream, current_version=state, events=event())
        for state in 3, ANY, EXISTS:
            self.client.append_to_stream(stream, current_version=state, events=events(2))
        self.assertEqual(revisions(self.client.get_stream(stream)), list(range(10)))

    def test_a_retried_append_is_appended_once_with_the_same_answer(self):
        for state_of in (lambda _: ANY, lambda n: NONE if n == 0 else n - 1):
            for count in 1, 3:
                stream = self.fresh()
                for first in 0, count:
                    batch = events(count)
                    some = batch[0] if count == 1 else batch
                    answers = {self.client.append_to_stream(stream, current_version=state_of(first), events=some) for _ in range(4)}
                    self.assertEqual(len(answers), 1)
                self.assertEqual(self.client.get_current_version(stream), 2 * count - 1)

    def test_an_append_that_overlaps_an_older_one_is_a_conflict(self):
        stream, given = self.fresh(), events(3)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        for some in [given[0], event()], [event(), given[1]], [*given, event()]:
            with self.assertRaises(WrongCurrentVersionError):
                self.client.append_to_stream(stream, current_version=NONE, events=some)
        self.assertEqual(ids(self.client.get_stream(stream)), ids(given))

    def test_one_of_many_appends_with_the_same_expectation_wins(self):
        stream, outcomes, gate = self.fresh(), [], threading.Barrier(16)

        def run(number):
            gate.wait()
            try:
                self.client.append_to_stream(stream, current_version=NONE, events=event(number))
                outcomes.append("appended")
            except WrongCurrentVersionError:
                outcomes.append("refused")

        threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(sorted(outcomes), ["appended"] + ["refused"] * 15)
        self.assertEqual(self.client.get_current_version(stream), 0)


class Limits(ClientTest):
    def test_a_large_append_is_complete_and_a_too_large_one_writes_nothing(self):
        stream = self.fresh()
        large = [NewEvent(type="Large", data=b"x" * 9_000, content_type="application/octet-stream") for _ in range(100)]
        self.client.append_to_stream(stream, current_version=NONE, events=large)
        self.assertEqual([len(e.data) for e in self.client.get_stream(stream)], [9_000] * 100)
        huge = NewEvent(type="Huge", data=b"x" * 1_100_000, content_type="application/octet-stream")
        with self.assertRaises(MaximumAppendSizeExceededError):
            self.client.append_to_stream(stream, current_version=99, events=[huge])
        with self.assertRaises(KurrentDBClientError) as refused:
            self.client.append_to_stream(stream, current_version=99, events=huge)
        self.assertIn("ize", str(refused.exception))
        spread = [NewEvent(type="Huge", data=b"x" * 110_000, content_type="application/octet-stream") for _ in range(20)]
        with self.assertRaises(MaximumAppendSizeExceededError):
            self.client.append_to_stream(stream, current_version=99, events=spread)
        self.assertEqual(self.client.get_current_version(stream), 99)
        # The connection and the server still work.
        self.client.append_to_stream(stream, current_version=99, events=event())

    def test_many_small_events_are_one_append(self):
        stream, given = self.fresh(), events(8000)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        self.assertEqual(ids(self.client.read_stream(stream)), ids(given))


class Reserved(ClientTest):
    def test_clients_cannot_append_domain_events(self):
        for stream in f"job-{uuid4()}", f"matching-{uuid4()}", f"matching-{uuid4()}.3", "worker-default.w1":
            for some in event(kind="JobCreated"), events(2, kind="JobCreated"):
                for state in NONE, ANY:
                    with self.subTest(stream=stream), self.assertRaises(AccessDeniedError):
                        self.client.append_to_stream(stream, current_version=state, events=some)
            self.assertEqual(self.client.get_current_version(stream), NONE)

    def test_similar_names_are_not_reserved(self):
        for stream in "jobs-1", "my-job-1", "Worker-1", "workers":
            self.client.append_to_stream(stream, current_version=NONE, events=event())
