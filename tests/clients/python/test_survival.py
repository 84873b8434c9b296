"""Kills of the server, with the Python client."""

import threading
import unittest
from collections import Counter

from kurrentdbclient import KurrentDBClient, StreamState
from kurrentdbclient.exceptions import KurrentDBClientError
from server import Server, until
from support import event, ids

KILLS = 3
WRITERS = 4


class Killed(unittest.TestCase):
    def test_kills_lose_no_acknowledged_append_and_no_delivery(self):
        server = Server()
        self.addCleanup(server.close)
        acknowledged, seen, stop = [], [], threading.Event()

        def write(number):
            """Appends, and sends each event again until it is acknowledged."""
            client, stream = KurrentDBClient(server.url), f"order-{number}"
            while not stop.is_set():
                each = event(number)
                while True:
                    try:
                        client.append_to_stream(stream, current_version=StreamState.ANY, events=each, timeout=5)
                        break
                    except (KurrentDBClientError, ValueError):
                        if stop.wait(0.05) and server.process.poll() is not None:
                            return
                acknowledged.append(each.id)
            client.close()

        def follow():
            """Subscribes, and resumes from the last event that it received."""
            client, last = KurrentDBClient(server.url), None
            while True:
                try:
                    with client.subscribe_to_all(commit_position=last, filter_include=[r"Order.+"]) as subscription:
                        for each in subscription:
                            if each.type == "OrdersEnded":
                                client.close()
                                return
                            seen.append(each)
                            last = each.commit_position
                except (KurrentDBClientError, ValueError):
                    stop.wait(0.05)

        threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(WRITERS)]
        follower = threading.Thread(target=follow, daemon=True)
        for thread in [*threads, follower]:
            thread.start()
        for _ in range(KILLS):
            enough = len(acknowledged) + 40
            until("events are acknowledged", lambda: len(acknowledged) >= enough)
            server.kill()
            server.start()
        enough = len(acknowledged) + 40
        until("events are acknowledged", lambda: len(acknowledged) >= enough)
        stop.set()
        [thread.join(60) for thread in threads]
        with KurrentDBClient(server.url) as client:
            client.append_to_stream("end-1", current_version=StreamState.ANY, events=event(kind="OrdersEnded"))
            follower.join(60)
            self.assertFalse(follower.is_alive())
            log = [each for each in client.read_all() if each.type == "OrderPlaced"]
        self.assertEqual(Counter(ids(log)), Counter(acknowledged))
        self.assertEqual(ids(seen), ids(log))
