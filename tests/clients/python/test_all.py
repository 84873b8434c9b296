"""Reads of the whole log, with the Python client."""

import json
import urllib.request

from kurrentdbclient import StreamState
from kurrentdbclient.exceptions import KurrentDBClientError
from support import ClientTest, event, ids

NONE = StreamState.NO_STREAM


class All(ClientTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.given = []
        for number in range(40):
            category = ("cart", "cartoon", "parcel")[number % 3]
            kind = ("Opened", "Closed")[number % 2]
            stream = f"{category}-{number % 6}"
            each = event(number, kind)
            position = cls.client.append_to_stream(stream, current_version=StreamState.ANY, events=each)
            cls.given.append((each.id, stream, kind, position))

    def wanted(self, keep=lambda stream, kind: True):
        return [identity for identity, stream, kind, _ in self.given if keep(stream, kind)]

    def read(self, **options):
        return ids(self.client.read_all(**options))

    def test_the_log_is_read_in_the_same_order_in_both_directions(self):
        read = list(self.client.read_all())
        self.assertEqual(ids(read), self.wanted())
        positions = [each.commit_position for each in read]
        self.assertEqual(positions, sorted(set(positions)))
        self.assertEqual(positions, [position for *_, position in self.given])
        self.assertEqual(self.read(backwards=True), self.wanted()[::-1])
        self.assertEqual(self.read(filter_exclude=())[-40:], self.wanted())

    def test_a_position_is_included_forwards_and_excluded_backwards(self):
        position = self.given[20][3]
        self.assertEqual(self.read(commit_position=position), self.wanted()[20:])
        self.assertEqual(self.read(commit_position=position, backwards=True), self.wanted()[19::-1])
        self.assertEqual(self.read(commit_position=position, limit=3), self.wanted()[20:23])
        self.assertEqual(self.read(commit_position=position, backwards=True, limit=3), self.wanted()[19:16:-1])

    def test_a_limit_counts_what_passes_the_filter(self):
        carts = self.wanted(lambda stream, _: stream.startswith("cart-"))
        options = {"filter_include": ["cart-"], "filter_by_prefix": True, "filter_by_stream_name": True}
        self.assertEqual(self.read(limit=5, **options), carts[:5])
        self.assertEqual(self.read(limit=5, backwards=True, **options), carts[: -6 : -1])

    def test_filters_by_prefix_and_pattern_of_stream_and_type(self):
        for keep, options in [
            (lambda s, _: s.startswith("cart-"), {"filter_include": ["cart-"], "filter_by_prefix": True, "filter_by_stream_name": True}),
            (lambda s, _: s.startswith("cart"), {"filter_include": ["cart"], "filter_by_prefix": True, "filter_by_stream_name": True}),
            (lambda s, _: s[:3] in ("par", "xxx"), {"filter_include": ["xxx", "parcel"], "filter_by_prefix": True, "filter_by_stream_name": True}),
            (lambda _, k: k == "Opened", {"filter_include": ["Op"], "filter_by_prefix": True}),
            (lambda _, k: k == "Closed", {"filter_include": [r"Clo.+"]}),
            (lambda s, _: s[-1] in "135", {"filter_include": [r".+-[135]"], "filter_by_stream_name": True}),
            (lambda s, _: not s.startswith("cart"), {"filter_exclude": [r"cart.*", r"\$.+"], "filter_by_stream_name": True}),
            (lambda _, k: k != "Opened", {"filter_exclude": ["Opened", r"\$.+"]}),
        ]:
            with self.subTest(**options):
                wanted = self.wanted(keep)
                self.assertTrue(0 < len(wanted) < 40)
                self.assertEqual(self.read(**options), wanted)
                self.assertEqual(self.read(backwards=True, **options), wanted[::-1])

    def test_an_invalid_pattern_is_refused(self):
        with self.assertRaises(KurrentDBClientError):
            self.read(filter_include=["("])
        self.assertEqual(self.read(), self.wanted())


class System(ClientTest):
    def test_system_events_are_excluded_by_default(self):
        stream = self.fresh("annotated")
        self.client.append_to_stream(stream, current_version=NONE, events=event(kind="Annotated"))
        self.client.set_stream_metadata(stream, metadata={"by": "ann"})
        self.assertIn("$metadata", {each.type for each in self.client.read_all(filter_exclude=())})
        shown = {each.type for each in self.client.read_all()}
        self.assertIn("Annotated", shown)
        self.assertNotIn("$metadata", shown)

    def test_events_of_the_server_can_be_read(self):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.http}/jobs", data=b"{}", headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            job = json.load(answer)["job_id"]
        (created,) = self.client.get_stream(f"job-{job}")
        self.assertEqual(created.type, "JobCreated")
        self.assertIsInstance(json.loads(created.data), dict)
        self.assertIsInstance(json.loads(created.metadata), dict)
        self.assertIn(created.id, ids(self.client.read_all(filter_include=["JobCreated"])))
