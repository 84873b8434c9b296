"""Stream deletion and stream metadata, with the Python client."""

from uuid import uuid4

from kurrentdbclient import StreamState
from kurrentdbclient.exceptions import AccessDeniedError, NotFoundError, StreamIsDeletedError, WrongCurrentVersionError
from support import ClientTest, event, events, ids, revisions

NONE, ANY, EXISTS = StreamState.NO_STREAM, StreamState.ANY, StreamState.EXISTS


class Deleting(ClientTest):
    def written(self, count=3):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(count))
        return stream

    def test_a_deleted_stream_is_not_found_and_its_revisions_continue(self):
        for delete_at in 2, ANY, EXISTS:
            for append_at in NONE, 2, ANY:
                stream = self.written()
                self.client.delete_stream(stream, current_version=delete_at)
                with self.assertRaises(NotFoundError):
                    self.client.get_stream(stream)
                self.assertEqual(self.client.get_current_version(stream), NONE)
                self.client.append_to_stream(stream, current_version=append_at, events=event(3))
                self.assertEqual(revisions(self.client.get_stream(stream)), [3])
                self.assertEqual(revisions(self.client.get_stream(stream, backwards=True)), [3])

    def test_deleting_at_a_wrong_revision_is_refused(self):
        stream = self.written()
        for state in 0, 1, 7:
            with self.subTest(state=state), self.assertRaises(WrongCurrentVersionError) as refused:
                self.client.delete_stream(stream, current_version=state)
            self.assertEqual((refused.exception.expected_version, refused.exception.actual_version), (state, 2))
            with self.subTest(tombstone=state), self.assertRaises(WrongCurrentVersionError):
                self.client.tombstone_stream(stream, current_version=state)
        self.assertEqual(revisions(self.client.get_stream(stream)), [0, 1, 2])

    def test_a_stream_without_events_cannot_be_deleted(self):
        for state in ANY, EXISTS, 0:
            with self.subTest(state=state), self.assertRaises(NotFoundError):
                self.client.delete_stream(self.fresh(), current_version=state)

    def test_a_tombstone_is_permanent(self):
        stream = self.written()
        self.client.tombstone_stream(stream, current_version=2)
        for state in NONE, ANY, EXISTS, 2:
            for some in event(), events(2):
                with self.subTest(state=state), self.assertRaises(Exception) as refused:
                    self.client.append_to_stream(stream, current_version=state, events=some)
                self.assertIn("deleted", str(refused.exception))
            with self.subTest(again=state), self.assertRaises(StreamIsDeletedError):
                self.client.tombstone_stream(stream, current_version=state)
            with self.subTest(delete=state), self.assertRaises(StreamIsDeletedError):
                self.client.delete_stream(stream, current_version=state)
        for backwards in False, True:
            with self.assertRaises(StreamIsDeletedError):
                self.client.get_stream(stream, backwards=backwards)

    def test_an_event_of_a_deleted_stream_is_still_in_the_log(self):
        stream, each = self.fresh(), event()
        self.client.append_to_stream(stream, current_version=NONE, events=each)
        self.client.delete_stream(stream, current_version=0)
        self.assertIn(each.id, ids(self.client.read_all()))

    def test_clients_cannot_delete_domain_events(self):
        for stream in f"job-{uuid4()}", f"matching-{uuid4()}.3", "worker-default.w1":
            with self.subTest(metadata=stream), self.assertRaises(AccessDeniedError):
                self.client.set_stream_metadata(stream, metadata={"$maxCount": 1})
            with self.subTest(delete=stream), self.assertRaises(AccessDeniedError):
                self.client.delete_stream(stream, current_version=ANY)
            with self.subTest(tombstone=stream), self.assertRaises(AccessDeniedError):
                self.client.tombstone_stream(stream, current_version=ANY)


class Metadata(ClientTest):
    def test_metadata_is_stored_and_its_revision_is_checked(self):
        stream = self.fresh()
        self.assertEqual(self.client.get_stream_metadata(stream), ({}, NONE))
        self.client.set_stream_metadata(stream, metadata={"by": "ann"}, current_version=NONE)
        self.assertEqual(self.client.get_stream_metadata(stream), ({"by": "ann"}, 0))
        self.client.set_stream_metadata(stream, metadata={"by": "bob"}, current_version=0)
        self.assertEqual(self.client.get_stream_metadata(stream), ({"by": "bob"}, 1))
        with self.assertRaises(WrongCurrentVersionError):
            self.client.set_stream_metadata(stream, metadata={"by": "eve"}, current_version=0)
        self.assertEqual(self.client.get_stream_metadata(stream), ({"by": "bob"}, 1))

    def test_stream_metadata_limits_the_visible_events(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(10))
        self.client.set_stream_metadata(stream, metadata={"$maxCount": 4})
        self.assertEqual(revisions(self.client.get_stream(stream)), [6, 7, 8, 9])
        self.assertEqual(revisions(self.client.get_stream(stream, backwards=True)), [9, 8, 7, 6])
        self.assertEqual(revisions(self.client.get_stream(stream, stream_position=2, limit=2)), [6, 7])
        self.client.append_to_stream(stream, current_version=9, events=event(10))
        self.assertEqual(revisions(self.client.get_stream(stream)), [7, 8, 9, 10])
        self.client.set_stream_metadata(stream, metadata={"$tb": 9})
        self.assertEqual(revisions(self.client.get_stream(stream)), [9, 10])
        self.client.set_stream_metadata(stream, metadata={"$maxAge": 3600})
        self.assertEqual(revisions(self.client.get_stream(stream)), list(range(11)))

    def test_a_deletion_is_in_the_metadata_which_can_be_set_again(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(3))
        self.client.delete_stream(stream, current_version=2)
        self.assertEqual(self.client.get_stream_metadata(stream), ({"$tb": 2**63 - 1}, 0))
        self.client.set_stream_metadata(stream, metadata={"by": "bob"}, current_version=0)
        self.assertEqual(self.client.get_stream_metadata(stream), ({"by": "bob"}, 1))
