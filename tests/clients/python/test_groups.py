"""Persistent subscriptions, with the Python client."""

from kurrentdbclient import KurrentDBClient, StreamState
from kurrentdbclient.exceptions import (
    AlreadyExistsError,
    KurrentDBClientError,
    MaximumSubscriptionsReachedError,
    NotFoundError,
)
from server import Server, until
from support import ClientTest, event, events, ids

NONE, ANY = StreamState.NO_STREAM, StreamState.ANY


def settled(client, group, stream=None):
    """Waits until every delivered event of the group was answered."""
    info = lambda: client.get_subscription_info(group, stream_name=stream)
    until("the group is idle", lambda: info().total_in_flight_messages == 0)
    return info()


def consume(subscription, count, answer=lambda subscription, each: subscription.ack(each)):
    taken = []
    for each in subscription:
        answer(subscription, each)
        taken.append(each)
        if len(taken) == count:
            break
    return taken


class Groups(ClientTest):
    def test_a_group_is_created_once_updated_listed_and_deleted(self):
        stream, client = self.fresh(), self.client
        client.create_subscription_to_stream("g", stream, message_timeout=5, max_retry_count=3)
        with self.assertRaises(AlreadyExistsError):
            client.create_subscription_to_stream("g", stream)
        client.update_subscription_to_stream("g", stream, max_retry_count=7, consumer_strategy="RoundRobin")
        info = client.get_subscription_info("g", stream_name=stream)
        self.assertEqual((info.max_retry_count, info.consumer_strategy, info.message_timeout), (7, "RoundRobin", 5))
        self.assertEqual([each.group_name for each in client.list_subscriptions_to_stream(stream)], ["g"])
        client.delete_subscription("g", stream_name=stream)
        for call in client.get_subscription_info, client.delete_subscription, client.replay_parked_events:
            with self.assertRaises(NotFoundError):
                call("g", stream_name=stream)
        with self.assertRaises(KurrentDBClientError):
            client.read_subscription_to_stream("g", stream)

    def test_existing_and_new_events_are_delivered_in_order(self):
        stream, old, new = self.fresh(), events(300), events(50)
        self.client.append_to_stream(stream, current_version=NONE, events=old)
        self.client.create_subscription_to_stream("g", stream)
        with self.client.read_subscription_to_stream("g", stream) as subscription:
            seen = consume(subscription, 300)
            self.client.append_to_stream(stream, current_version=299, events=new)
            seen += consume(subscription, 50)
        self.assertEqual(ids(seen), ids([*old, *new]))

    def test_a_group_starts_at_the_requested_revision(self):
        stream = self.fresh()
        self.client.append_to_stream(stream, current_version=NONE, events=events(10))
        self.client.create_subscription_to_stream("end", stream, from_end=True)
        self.client.create_subscription_to_stream("seven", stream, stream_position=7)
        new = event()
        self.client.append_to_stream(stream, current_version=9, events=new)
        with self.client.read_subscription_to_stream("end", stream) as subscription:
            self.assertEqual(ids(consume(subscription, 1)), [new.id])
        with self.client.read_subscription_to_stream("seven", stream) as subscription:
            self.assertEqual([each.stream_position for each in consume(subscription, 4)], [7, 8, 9, 10])

    def test_a_group_of_the_whole_log_gets_filtered_events(self):
        wanted, other = self.fresh("parcel"), self.fresh("letter")
        self.client.create_subscription_to_all(
            "g", filter_include=[r"parcel-.+"], filter_by_stream_name=True, from_end=True
        )
        given = []
        for number in range(60):
            each = event(number)
            self.client.append_to_stream(wanted if number % 20 == 0 else other, current_version=ANY, events=each)
            given += [each.id] if number % 20 == 0 else []
        with self.client.read_subscription_to_all("g") as subscription:
            self.assertEqual(ids(consume(subscription, 3)), given)

    def test_consumers_share_the_events_and_their_number_is_limited(self):
        stream, given = self.fresh(), events(40)
        self.client.create_subscription_to_stream("g", stream, consumer_strategy="RoundRobin", max_subscriber_count=2)
        both = [self.client.read_subscription_to_stream("g", stream) for _ in range(2)]
        with self.assertRaises(MaximumSubscriptionsReachedError):
            self.client.read_subscription_to_stream("g", stream)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        seen = [ids(consume(subscription, 20)) for subscription in both]
        self.assertEqual(seen, [ids(given[0::2]), ids(given[1::2])])
        [subscription.stop() for subscription in both]

    def test_an_event_is_retried_parked_and_replayed(self):
        stream, given = self.fresh(), events(3)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        self.client.create_subscription_to_stream("g", stream, max_retry_count=2)
        seen = []

        def answer(subscription, each):
            seen.append((given.index(each), each.retry_count))
            subscription.nack(each, "retry") if each.id == given[1].id else subscription.ack(each)

        with self.client.read_subscription_to_stream("g", stream, max_ack_batch_size=1) as subscription:
            consume(subscription, 5, answer)
            self.assertEqual([retries for number, retries in seen if number == 1], [0, 1, 2])
            until("it is parked", lambda: settled(self.client, "g", stream).parked_message_count == 1)
            self.client.replay_parked_events("g", stream_name=stream)
            (replayed,) = consume(subscription, 1)
            self.assertEqual(replayed.id, given[1].id)
        self.assertEqual(settled(self.client, "g", stream).parked_message_count, 0)

    def test_an_event_that_takes_too_long_goes_to_another_consumer(self):
        stream, given = self.fresh(), event()
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        self.client.create_subscription_to_stream("g", stream, message_timeout=0.5)
        slow = self.client.read_subscription_to_stream("g", stream)
        self.assertEqual(next(slow).retry_count, 0)
        with self.client.read_subscription_to_stream("g", stream) as other:
            slow.stop()
            (again,) = consume(other, 1)
            self.assertEqual((again.id, again.retry_count), (given.id, 1))

    def test_deleting_a_group_ends_the_calls_of_its_consumers(self):
        stream = self.fresh()
        self.client.create_subscription_to_stream("g", stream)
        subscription = self.client.read_subscription_to_stream("g", stream)
        self.client.delete_subscription("g", stream_name=stream)
        with self.assertRaises(KurrentDBClientError):
            next(subscription)

    def test_a_new_group_with_an_old_name_starts_from_the_beginning(self):
        stream, given = self.fresh(), events(30)
        self.client.append_to_stream(stream, current_version=NONE, events=given)
        for _ in range(2):
            self.client.create_subscription_to_stream("g", stream)
            with self.client.read_subscription_to_stream("g", stream) as subscription:
                self.assertEqual(ids(consume(subscription, 30)), ids(given))
            settled(self.client, "g", stream)
            self.client.delete_subscription("g", stream_name=stream)

    def test_wrong_settings_are_refused(self):
        with self.assertRaises(KurrentDBClientError):
            self.client.create_subscription_to_all("g-wrong", consumer_strategy="Nonesuch")
        with self.assertRaises(KurrentDBClientError):
            self.client.create_subscription_to_all("g-wrong", history_buffer_size=10, read_batch_size=20)
        with self.assertRaises(NotFoundError):
            self.client.get_subscription_info("g-wrong")


class Killed(ClientTest):
    def test_a_group_resumes_after_a_kill_and_keeps_parked_events(self):
        server = Server()
        self.addCleanup(server.close)
        stream, given = "order-1", events(90)
        with KurrentDBClient(server.url) as client:
            client.append_to_stream(stream, current_version=NONE, events=given)
            client.create_subscription_to_stream("g", stream, min_checkpoint_count=1, checkpoint_after=0.05)
            subscription = client.read_subscription_to_stream("g", stream, event_buffer_size=10, max_ack_batch_size=1)
            park = lambda subscription, each: subscription.nack(each, "park")
            parked = consume(subscription, 2, park)
            done = [*parked, *consume(subscription, 28)]
            checkpoint = lambda: client.get_subscription_info("g", stream_name=stream).last_checkpointed_event_position
            until("there is a checkpoint", lambda: int(checkpoint() or -1) >= 25)
        server.kill()
        server.start()
        with KurrentDBClient(server.url) as client:
            self.assertEqual(client.get_subscription_info("g", stream_name=stream).parked_message_count, 2)
            with client.read_subscription_to_stream("g", stream) as subscription:
                rest = []
                while not rest or rest[-1].id != given[-1].id:
                    rest += consume(subscription, 1)
                # No event is missing; events after the checkpoint may be delivered again.
                seen = {each.id for each in [*done, *rest]}
                self.assertEqual(seen, {each.id for each in given})
                self.assertLessEqual(len(rest), 60 + 5)
                client.replay_parked_events("g", stream_name=stream)
                self.assertEqual(ids(consume(subscription, 2)), ids(parked))


