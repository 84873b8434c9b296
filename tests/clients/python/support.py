"""Helpers for the tests of the Python client."""

import itertools
import json
import unittest

from kurrentdbclient import KurrentDBClient, NewEvent
from server import Server

numbers = itertools.count()


class ClientTest(unittest.TestCase):
    """One server and one client for all tests of a class; each test uses streams of its own."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)
        cls.client = KurrentDBClient(cls.server.url)
        cls.addClassCleanup(cls.client.close)

    def run(self, result=None):
        seen = len(result.errors) + len(result.failures) if result else 0
        super().run(result)
        if result and len(result.errors) + len(result.failures) > seen:
            print(f"--- the server's log ---\n{self.server.log()[-4000:]}")
        return result

    def fresh(self, name="order"):
        """A stream name that no other test uses."""
        return f"{name}-{next(numbers)}"


def event(number=0, kind="OrderPlaced", **more):
    return NewEvent(type=kind, data=json.dumps({"number": number}).encode(), **more)


def events(count, kind="OrderPlaced"):
    return [event(number, kind) for number in range(count)]


def ids(some):
    return [each.id for each in some]


def revisions(some):
    return [each.stream_position for each in some]


def take(subscription, count):
    """Receives the next events of a subscription, without checkpoints and status messages."""
    taken = []
    while len(taken) < count:
        each = next(subscription)
        if not (each.is_checkpoint or each.is_caught_up or each.is_fell_behind):
            taken.append(each)
    return taken
