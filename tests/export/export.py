#!/usr/bin/env python3
"""Opens exports of a running server with the libraries that they are for, over HTTP alone.

- NumPy, FAISS and Qdrant's client read the same ids and, to the last bit, the same vectors as the lines of JSON have. They are
  the vectors that were sent, with the length 1.
- FAISS and Qdrant find each vector as the nearest one to itself.
- A download in parts is the same file; a range beyond its end is refused.
- A server that is killed while it exports makes the export after its restart, whole, and leaves no part of a file.
- An expired export is gone.
- The same with the files in a bucket of moto's stand-in for S3.

export.py SERVER [VECTORS]: the server, and the number of cutouts with vectors.
"""

import calendar
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile

import boto3
import faiss
import numpy as np
from moto.server import ThreadedMotoServer
from qdrant_client import QdrantClient, models

server, *rest = sys.argv[1:]
count = int(rest[0]) if rest else 3_000
DIMENSION = 48
checks = 0


def check(truth, what):
    global checks
    if not truth:
        sys.exit(f"FAILED: {what}")
    checks += 1


class Server:
    def __init__(self, folder, arguments=(), environment=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        # A short lease, so that an export is soon made again after a kill.
        self.arguments = [server, "serve", f"--listen=127.0.0.1:{port}", f"--data={folder}/data", "--lease-term=2s", *arguments]
        self.environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self):
        log = open(f"{self.folder}/server.log", "ab")
        self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log, env=self.environment)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.url}/ready") as response:
                    if response.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"the server is not ready: {open(f'{self.folder}/server.log').read()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def call(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, method, path, body=None):
        status, _, answer = self.call(method, path, body)
        check(status < 300, f"{method} {path} is answered with {status}: {answer[:500]!r}")
        return json.loads(answer)

    def started(self, **body):
        return self.json("POST", "/api/v1/export", {"model_id": "clip", **body})["id"]

    def ended(self, export):
        for _ in range(1_000):
            found = self.json("GET", f"/api/v1/export/{export}")
            if found["status"] in ("completed", "failed", "cancelled"):
                return found
            time.sleep(0.05)
        sys.exit(f"the export {export} does not end")

    def exported(self, **body):
        """A complete export and its file."""
        export = self.ended(self.started(**body))
        check(export["status"] == "completed", f"the export fails: {export}")
        status, _, file = self.call("GET", export["download_url"])
        check((status, len(file)) == (200, export["file_size_bytes"]), f"the file has {len(file)} bytes: {export}")
        return export, file


def fill(server):
    """Vectors of products, of an image, and of cutouts, some of which show a product. Returns them by kind and id."""
    random = np.random.default_rng(7)
    model = {"id": "clip", "name": "CLIP", "model_type": "clip", "purpose": "image", "embedding_dim": DIMENSION}
    server.json("POST", "/api/v1/embeddings/models", model)
    products = ["1", "schön/2", "三", "x" * 128]
    batch = [{"id": id, "name": "Shoe", "category_id": f"c{n % 2}"} for n, id in enumerate(products)]
    server.json("POST", "/api/v1/products/batch", batch)
    vector = lambda: [float(value) for value in random.standard_normal(DIMENSION).astype("f4")]
    sent = {("product", id): vector() for id in products}
    vectors = [{"product_id": id, "model_id": "clip", "vector": value} for (_, id), value in sent.items()]
    sent["image", "front"] = vector()
    vectors.append({"product_id": "三", "model_id": "clip", "image_id": "front", "vector": sent["image", "front"]})
    server.json("POST", "/api/v1/products/embeddings/batch", vectors)
    cutouts = [{"external_id": n, "image_url": f"/{n}.jpg"} for n in range(count)]
    server.json("POST", "/api/v1/cutouts", cutouts)
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        sent |= {("cutout", str(n)): vector() for n in numbers}
        vectors = [{"cutout_id": n, "model_id": "clip", "vector": sent["cutout", str(n)]} for n in numbers]
        server.json("POST", "/api/v1/cutouts/embeddings/batch", vectors)
    matches = {"cutouts": [{"cutout_id": n, "similarity": 0.5} for n in range(10)]}
    server.json("POST", "/api/v1/matching/products/1/matches", matches)
    return sent


def fill_more(server):
    """So many further cutouts with vectors that a file has several parts. Returns their number."""
    random = np.random.default_rng(8)
    for start in range(count, count + 14_000, 1_000):
        numbers = range(start, start + 1_000)
        server.json("POST", "/api/v1/cutouts", [{"external_id": n, "image_url": f"/{n}.jpg"} for n in numbers])
        vectors = random.standard_normal((1_000, DIMENSION)).astype("f4").tolist()
        vectors = [{"cutout_id": n, "model_id": "clip", "vector": vector} for n, vector in zip(numbers, vectors)]
        server.json("POST", "/api/v1/cutouts/embeddings/batch", vectors)
    return 14_000


def rows(lines):
    """The rows of an export in JSON: kind, id, product and vector."""
    found = [json.loads(line) for line in lines.decode().splitlines()]
    vectors = np.array([row["vector"] for row in found], "f4")
    return [(row["kind"], row["id"], row["product_id"]) for row in found], vectors


def compare_numpy(file, ids, vectors):
    arrays = np.load(io.BytesIO(file))
    check(sorted(arrays) == ["embeddings", "ids", "kinds", "product_ids"], f"the arrays are {sorted(arrays)}")
    check(arrays["embeddings"].dtype == np.float32, "the vectors are float32")
    check(np.array_equal(arrays["embeddings"], vectors), "NumPy reads the vectors of the lines")
    read = zip(arrays["kinds"], arrays["ids"], arrays["product_ids"])
    check([(kind, id, product or None) for kind, id, product in read] == ids, "NumPy reads the ids of the lines")


def compare_faiss(file, ids, vectors, folder):
    archive = zipfile.ZipFile(io.BytesIO(file))
    check(archive.testzip() is None, "the checksums of the archive are right")
    index = faiss.read_index(archive.extract("index.faiss", folder))
    check((index.ntotal, index.d) == vectors.shape, f"FAISS reads {index.ntotal} vectors of {index.d} numbers")
    check(index.metric_type == faiss.METRIC_INNER_PRODUCT, "FAISS compares directions")
    inner = faiss.downcast_index(index.index)
    check(np.array_equal(inner.reconstruct_n(0, inner.ntotal), vectors), "FAISS reads the vectors of the lines")
    lines = [json.loads(line) for line in archive.read("ids.ndjson").decode().splitlines()]
    check([line["number"] for line in lines] == list(range(len(ids))), "the ids are numbered from 0")
    check([(line["kind"], line["id"], line["product_id"]) for line in lines] == ids, "FAISS has the ids of the lines")
    scores, nearest = index.search(vectors, 1)
    check((nearest[:, 0] == np.arange(len(ids))).all(), "FAISS finds each vector as the nearest one to itself")
    check(np.allclose(scores, 1, atol=1e-5), "and its similarity is 1")


def compare_qdrant(file, ids, vectors):
    archive = zipfile.ZipFile(io.BytesIO(file))
    collection = json.loads(archive.read("collection.json"))
    client = QdrantClient(":memory:")
    client.create_collection("clip", vectors_config=models.VectorParams(**collection["vectors"]))
    names = [name for name in archive.namelist() if name.startswith("points-")]
    points = []
    for name in names:
        body = models.PointsList(**json.loads(archive.read(name)))
        client.upsert("clip", points=body.points)
        points += body.points
    check(client.count("clip").count == len(ids), "no two points have one id")
    read = [(point.payload["kind"], point.payload["id"], point.payload.get("product_id")) for point in points]
    check(read == ids, "the points have the ids of the lines")
    check(np.array_equal(np.array([point.vector for point in points], "f4"), vectors), "and their vectors")
    for row in range(0, len(ids), max(1, len(ids) // 50)):
        found = client.query_points("clip", query=vectors[row].tolist(), limit=1, with_payload=True).points[0]
        check((found.payload["kind"], found.payload["id"]) == ids[row][:2], f"Qdrant finds {ids[row]}")
    shown = models.FieldCondition(key="product_id", match=models.MatchValue(value="1"))
    found = client.count("clip", count_filter=models.Filter(must=[shown])).count
    check(found == sum(product == "1" for _, _, product in ids), "Qdrant filters by product")
    return {point.id for point in points}


def compare_ranges(server, export, file):
    url = export["download_url"]
    _, headers, _ = server.call("GET", url, headers={"Range": "bytes=0-0"})
    etag, parts = headers["ETag"], b""
    step = len(file) // 7 + 1
    for start in range(0, len(file), step):
        asked = {"Range": f"bytes={start}-{start + step - 1}", "If-Range": etag}
        status, headers, part = server.call("GET", url, headers=asked)
        end = min(start + step, len(file)) - 1
        check((status, headers["Content-Range"]) == (206, f"bytes {start}-{end}/{len(file)}"), "a range is answered with 206")
        parts += part
    check(parts == file, "the parts of a download are the whole file")
    status, headers, _ = server.call("GET", url, headers={"Range": f"bytes={len(file)}-"})
    check((status, headers["Content-Range"]) == (416, f"bytes */{len(file)}"), "a range beyond the end is refused")
    status, _, _ = server.call("GET", url, headers={"If-None-Match": etag})
    check(status == 304, "a file that the caller has is not sent again")


def kill_while_exporting(server, delay):
    export = server.started(format="json")
    time.sleep(delay)
    server.kill()
    server.start()
    ended = server.ended(export)
    check(ended["status"] == "completed", f"the export is made after the kill: {ended}")
    return server.call("GET", ended["download_url"])[2]


def check_expired(server, export):
    expires_at = time.strptime(export["expires_at"][:19], "%Y-%m-%dT%H:%M:%S")
    while time.time() < calendar.timegm(expires_at) + 1:
        time.sleep(0.1)
    status, _, _ = server.call("GET", f"/api/v1/export/{export['id']}/download")
    check(status == 410, f"an expired export is answered with {status}")


def with_folder(folder):
    server = Server(folder)
    try:
        sent = fill(server)
        expiring = server.ended(server.started(format="numpy", expires_in=3))
        export, lines = server.exported(format="json")
        ids, vectors = rows(lines)
        check(export["vector_count"] == len(ids) == len(sent), f"{len(ids)} of {len(sent)} vectors are exported")
        check(export["product_count"] == 4, "they belong to four products")
        check({(kind, id) for kind, id, _ in ids} == set(sent), "the ids are those that were sent")
        check(sum(product == "1" for kind, _, product in ids if kind == "cutout") == 10, "ten cutouts show a product")
        unit = np.array([sent[kind, id] for kind, id, _ in ids], "f8")
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        check(np.abs(unit - vectors).max() < 1e-6, "the vectors are those that were sent, with the length 1")
        compare_ranges(server, export, lines)
        compare_numpy(server.exported(format="numpy")[1], ids, vectors)
        compare_faiss(server.exported(format="faiss")[1], ids, vectors, folder)
        points = compare_qdrant(server.exported(format="qdrant")[1], ids, vectors)
        only = server.exported(format="qdrant", filters={"target": "cutouts", "matched": True})[1]
        some = [key for key in ids if key[0] == "cutout" and key[2]]
        places = [row for row, key in enumerate(ids) if key in set(some)]
        check(compare_qdrant(only, some, vectors[places]) < points, "another export has the same points")
        for delay in (0, 0.05, 0.2):
            check(kill_while_exporting(server, delay) == lines, "the file after a kill is the same")
            names = os.listdir(f"{folder}/data/exports")
            check(not [name for name in names if "#" in name], f"no part of a file stays: {names}")
        check_expired(server, expiring)
        names = os.listdir(f"{folder}/data/exports")
        check(not [name for name in names if expiring["id"] in name], f"its file is deleted: {names}")
        return len(ids)
    finally:
        server.kill()


def with_bucket(folder):
    stand_in = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    stand_in.start()
    _, port = stand_in.get_host_and_port()
    environment = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    bucket = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    bucket.create_bucket(Bucket="vectors")
    server = Server(folder, ["--exports=s3://vectors/of/tests"], environment)
    listed = lambda: [file["Key"] for file in bucket.list_objects_v2(Bucket="vectors").get("Contents", [])]
    try:
        sent = fill(server)
        expiring = server.ended(server.started(format="numpy", expires_in=3))
        export, lines = server.exported(format="json")
        check(len(rows(lines)[0]) == len(sent), "a bucket has all vectors")
        check(all(name.startswith("of/tests/") for name in listed()), f"the files are in their folder: {listed()}")
        compare_ranges(server, export, lines)
        # Several parts.
        large = fill_more(server)
        archive = server.exported(format="numpy")[1]
        arrays = np.load(io.BytesIO(archive))
        check(len(arrays["ids"]) == len(sent) + large, f"{len(archive)} bytes in a bucket are whole")
        check(len(archive) > 8 << 20, f"a file of {len(archive)} bytes has several parts")
        before = set(listed())
        for delay in (0, 0.3):
            check(len(rows(kill_while_exporting(server, delay))[0]) == len(sent) + large, "and after a kill")
        added = len(set(listed()) - before)
        check(added == 2, f"a kill leaves no part of a file: {added} files were added")
        check_expired(server, expiring)
        check(not [name for name in listed() if expiring["id"] in name], "an expired file is deleted from the bucket")
        file = next(name for name in listed() if export["id"] in name)
        bucket.delete_object(Bucket="vectors", Key=file)
        status, _, _ = server.call("GET", export["download_url"])
        check(status == 410, f"a file that was removed from the bucket is answered with {status}")
    finally:
        server.kill()
        stand_in.stop()


def main():
    with tempfile.TemporaryDirectory() as folder:
        vectors = with_folder(folder)
    with tempfile.TemporaryDirectory() as folder:
        with_bucket(folder)
    print(f"{vectors} vectors of {DIMENSION} numbers in four formats, in a folder and a bucket: {checks} checks passed")


main()
