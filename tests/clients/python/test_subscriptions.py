"""Catch-up subscriptions, with the Python client."""

import threading

from kurrentdbclient import KurrentDBClient, StreamState
from kurrentdbclient.exceptions import KurrentDBClientError
from server import Server
from support import ClientTest, event, events, ids, revisions, take

NONE, ANY = StreamState.NO_STREAM, StreamState.ANY


class ToStream(ClientTest):
    def test_history_comes_first_then_caught_up_then_new_events(self):
        stream, old, new = self.fresh(), events(300), events(3)
        self.client.append_to_stream(stream, current_version=NONE, events=old)
        with self.client.subscribe_to_stream(stream, include_caught_up=True) as subscription:
            self.assertTrue(subscription.subscription_id)
            seen = [next(subscription) for _ in range(301)]
            self.assertEqual(ids(seen[:300]), ids(old))
            self.assertTrue(seen[300].is_caught_up)
            self.client.append_to_stream(stream, current_version=299, events=new)
            self.assertEqual(ids(take(subscription, 3)), ids(new))

    def test_the_revision_to_resume_from_is_excluded(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(10))
        with self.client.subscribe_to_stream(stream, stream_position=6) as subscription:
            self.assertEqual(revisions(take(subscription, 3)), [7, 8, 9])

    def test_a_subscription_can_start_at_the_end(self):
        stream, new = self.fresh(), events(2)
        self.client.append_to_stream(stream, current_version=NONE, events=events(10))
        with self.client.subscribe_to_stream(stream, from_end=True) as subscription:
            self.client.append_to_stream(stream, current_version=9, events=new)
            self.assertEqual(ids(take(subscription, 2)), ids(new))

    def test_a_missing_stream_can_be_subscribed_to(self):
        stream, new = self.fresh(), events(2)
        with self.client.subscribe_to_stream(stream) as subscription:
            self.client.append_to_stream(self.fresh(), current_version=NONE, events=events(5))
            self.client.append_to_stream(stream, current_version=NONE, events=new)
            self.assertEqual(ids(take(subscription, 2)), ids(new))

    def test_no_event_is_missed_or_duplicated_between_history_and_new_ones(self):
        stream, total = self.fresh(), 400

        def write():
            for number in range(total):
                self.client.append_to_stream(stream, current_version=ANY, events=event(number))

        writer = threading.Thread(target=write)
        writer.start()
        subscriptions = [self.client.subscribe_to_stream(stream) for _ in range(4)]
        for subscription in subscriptions:
            with subscription:
                self.assertEqual(revisions(take(subscription, total)), list(range(total)))
        writer.join()


class Everything(ClientTest):
    def test_existing_and_new_events_arrive_in_order(self):
        for number in range(30):
            self.client.append_to_stream(f"early-{number % 3}", current_version=ANY, events=event(number))
        with self.client.subscribe_to_all() as subscription:
            seen = take(subscription, 30)
            for number in range(30):
                self.client.append_to_stream(f"late-{number % 3}", current_version=ANY, events=event(number))
            seen += take(subscription, 30)
        self.assertEqual(ids(seen), ids(self.client.read_all()))
        with self.client.subscribe_to_all(commit_position=seen[44].commit_position) as subscription:
            self.assertEqual(ids(take(subscription, 15)), ids(seen[45:]))


class ToAll(ClientTest):
    def test_a_filtered_subscription_resumes_from_its_checkpoints(self):
        marked = []
        for number in range(500):
            stream = "marked-1" if number % 100 == 99 else "other-1"
            each = event(number)
            self.client.append_to_stream(stream, current_version=ANY, events=each)
            if stream == "marked-1":
                marked.append(each.id)
        options = {
            "filter_include": ["marked-"],
            "filter_by_prefix": True,
            "filter_by_stream_name": True,
            "include_checkpoints": True,
            "window_size": 10,
            "checkpoint_interval_multiplier": 2,
        }
        seen, checkpoints = [], []
        with self.client.subscribe_to_all(include_caught_up=True, **options) as subscription:
            for each in subscription:
                if each.is_caught_up:
                    end = each.commit_position
                    break
                (checkpoints if each.is_checkpoint else seen).append(each)
        self.assertEqual(ids(seen), marked)
        self.assertGreaterEqual(len(checkpoints), 5)
        positions = [each.commit_position for each in checkpoints]
        self.assertEqual(positions, sorted(positions))
        # The last checkpoint is at most one interval behind the end.
        self.assertLess(end - positions[-1], 20)
        # A subscription from a checkpoint gets exactly the events after it.
        for checkpoint in checkpoints:
            rest = [each.id for each in seen if each.commit_position > checkpoint.commit_position]
            extra = event(0)
            self.client.append_to_stream("marked-1", current_version=ANY, events=extra)
            seen.append(self.client.get_stream("marked-1", backwards=True, limit=1)[0])
            with self.client.subscribe_to_all(commit_position=checkpoint.commit_position, **options) as subscription:
                self.assertEqual(ids(take(subscription, len(rest) + 1)), [*rest, extra.id])

    def test_checkpoints_continue_while_no_event_passes_the_filter(self):
        options = {"filter_include": ["Never"], "include_checkpoints": True, "window_size": 10}
        with self.client.subscribe_to_all(from_end=True, checkpoint_interval_multiplier=1, **options) as subscription:
            first = None
            for number in range(60):
                first = self.client.append_to_stream("busy-1", current_version=ANY, events=event(number)) if first is None else first
                self.client.append_to_stream("busy-1", current_version=ANY, events=event(number))
            checkpoint = next(subscription)
            self.assertTrue(checkpoint.is_checkpoint)
            self.assertGreaterEqual(checkpoint.commit_position, first)

    def test_many_subscriptions_share_one_connection(self):
        streams = [self.fresh("shared") for _ in range(40)]
        subscriptions = [self.client.subscribe_to_stream(stream) for stream in streams]
        for stream in streams:
            self.client.append_to_stream(stream, current_version=NONE, events=events(3))
        for subscription in subscriptions:
            with subscription:
                self.assertEqual(revisions(take(subscription, 3)), [0, 1, 2])


class AtTheEnd(ClientTest):
    def test_a_subscription_ends_with_an_error_when_the_server_stops(self):
        # A client takes a normal end of the stream for the end of all events.
        server = Server()
        self.addCleanup(server.close)
        with KurrentDBClient(server.url) as client:
            client.append_to_stream("order-1", current_version=NONE, events=event())
            subscription = client.subscribe_to_all()
            take(subscription, 1)
            self.assertEqual(server.terminate(), 0)
            with self.assertRaises(KurrentDBClientError):
                take(subscription, 1)
