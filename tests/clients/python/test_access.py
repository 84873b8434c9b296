"""Authentication and certificates, with the Python client."""

import os
import unittest
from pathlib import Path

from kurrentdbclient import KurrentDBClient, StreamState
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    DiscoveryFailedError,
    KurrentDBClientError,
    ServiceUnavailableError,
    UnauthenticatedError,
)
from server import Server
from support import event, events, ids, take

TLS = Path(os.environ["MATCHBOOK_TEST_TLS"])
NONE = StreamState.NO_STREAM


class Secured(unittest.TestCase):
    """The client sends credentials only over TLS."""

    @classmethod
    def setUpClass(cls):
        # Secrets are better set in the environment than by a flag; in a test it does not matter.
        cls.server = Server(
            f"--esdb-tls-cert={TLS / 'server.pem'}",
            f"--esdb-tls-key={TLS / 'server.key'}",
            "--esdb-users=ann:secret",
            "--esdb-trusted-users=bob:trusted",
        )
        cls.addClassCleanup(cls.server.close)

    def client(self, user="", options="tls=true", host="localhost", ca=TLS / "ca.pem"):
        url = f"kurrentdb://{user}{host}:{self.server.port}?{options}&maxDiscoverAttempts=1"
        client = KurrentDBClient(url, root_certificates=ca.read_bytes() if ca else None)
        self.addCleanup(client.close)
        return client

    def test_a_user_with_the_right_password_appends_reads_and_subscribes(self):
        client, given = self.client("ann:secret@"), events(3)
        client.append_to_stream("order-1", current_version=NONE, events=given[0])
        client.append_to_stream("order-1", current_version=0, events=given[1:])
        self.assertEqual(ids(client.get_stream("order-1")), ids(given))
        with client.subscribe_to_stream("order-1") as subscription:
            self.assertEqual(ids(take(subscription, 3)), ids(given))

    def test_wrong_credentials_are_refused_in_every_call(self):
        for user in "ann:wrong@", "eve:secret@", "ann:trusted@":
            client = self.client(user)
            calls = {
                "append": lambda: client.append_to_stream("order-2", current_version=NONE, events=event()),
                "batch": lambda: client.append_to_stream("order-2", current_version=NONE, events=events(2)),
                "read": lambda: client.get_stream("order-2"),
                "all": lambda: list(client.read_all()),
                "subscribe": lambda: client.subscribe_to_all(),
                "delete": lambda: client.delete_stream("order-2", current_version=StreamState.ANY),
                "groups": lambda: client.list_subscriptions(),
                "create": lambda: client.create_subscription_to_all("g"),
                "consume": lambda: client.read_subscription_to_all("g"),
            }
            for name, call in calls.items():
                with self.subTest(user=user, call=name), self.assertRaises((UnauthenticatedError, AccessDeniedError)):
                    call()

    def test_a_trusted_user_cannot_append_invalid_domain_events(self):
        client = self.client("bob:trusted@")
        stream = "job-018f0000-0000-7000-8000-000000000001"
        for some in event(kind="JobCreated"), events(2, kind="NeverHeardOf"):
            with self.assertRaises(AccessDeniedError):
                client.append_to_stream(stream, current_version=NONE, events=some)

    def test_unknown_certificates_and_plain_connections_are_refused(self):
        for client in self.client("ann:secret@", ca=None), self.client(options="tls=false"):
            with self.assertRaises((ServiceUnavailableError, DiscoveryFailedError)):
                client.append_to_stream("order-3", current_version=NONE, events=event())
        with self.assertRaises(KurrentDBClientError):
            self.client("ann:secret@").get_stream("order-3")
