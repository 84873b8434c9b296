#!/usr/bin/env python3
"""Compares searches for vectors with hnswlib, FAISS, LanceDB, Qdrant (qdrant-edge) and PostgreSQL with pgvector, in one run.

search.py PROGRAMS [VECTORS [QUERIES [ENGINE...]]]: the folder of `matchbook`, the number of vectors (100,000), of queries with each
filter (200), and the engines. The vectors have 384 numbers in 1,000 groups, and all graphs 32 links for each vector, chosen among
128. The filters are ranges of a price. For each filter the least effort with a recall@10 of 0.99 is chosen on one half of the queries;
the figures are those of the other half: the recall, and the CPU of a query, which includes HTTP and SQL where an engine has them.
"""

import json
import shutil
import sys
import tempfile
import time
import urllib.request

import numpy as np

from postgres import Postgres
from server import Matchbook, cpu, free_port, memory

programs, *rest = sys.argv[1:]
count = int(rest[0]) if rest else 100_000
queries_each = int(rest[1]) if len(rest) > 1 else 200
chosen = rest[2:]
DIMENSION, GROUPS, BEST, LINKS, CHOSEN_AMONG = 384, 1_000, 10, 32, 128
SHARES = [0.001, 0.01, 0.1, 1]
EFFORTS = [16, 32, 64, 128, 256, 512, 1024]
WANTED = 0.99

draw = np.random.default_rng(1)
centres = draw.standard_normal((GROUPS, DIMENSION), dtype=np.float32)


def unit_vectors(number):
    # The first groups are larger.
    groups = (draw.random(number) ** 3 * GROUPS).astype(int)
    found = centres[groups] + 0.5 * draw.standard_normal((number, DIMENSION), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


vectors = unit_vectors(count)
queries = {share: unit_vectors(queries_each) for share in SHARES}
exact = {}
for share in SHARES:
    scores = queries[share] @ vectors[: int(count * share)].T
    exact[share] = [set(np.argpartition(-row, BEST)[:BEST].tolist()) for row in scores]


class Hnswlib:
    """Its filters are functions in Python, which would be measured instead."""

    shares = [1]

    def __init__(self):
        import hnswlib

        self.index = hnswlib.Index("ip", DIMENSION)
        self.index.init_index(count, M=LINKS, ef_construction=CHOSEN_AMONG)
        self.index.add_items(vectors)
        self.index.set_num_threads(1)

    def search(self, vector, limit, effort):
        self.index.set_ef(max(effort, BEST))
        return self.index.knn_query(vector, k=BEST)[0][0]


class Faiss:
    def __init__(self):
        import faiss

        self.faiss = faiss
        self.index = faiss.IndexHNSWFlat(DIMENSION, LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = CHOSEN_AMONG
        self.index.add(vectors)
        faiss.omp_set_num_threads(1)

    def search(self, vector, limit, effort):
        settings = self.faiss.SearchParametersHNSW(efSearch=effort)
        if limit < count:
            selector = self.faiss.IDSelectorRange(0, limit)
            settings = self.faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        return self.index.search(vector[None], BEST, params=settings)[1][0]


class LanceDb:
    def __init__(self):
        import lancedb
        import pyarrow as pa
        from lancedb.index import BTree, HnswSq

        self.folder = tempfile.mkdtemp(prefix="peers-")
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
        table = pa.table({"id": pa.array(range(count)), "price": pa.array(range(count)), "vector": values})
        self.table = lancedb.connect(self.folder).create_table("vectors", table)
        graph = HnswSq(distance_type="dot", num_partitions=1, m=LINKS, ef_construction=CHOSEN_AMONG)
        self.table.create_index("vector", config=graph)
        self.table.create_index("price", config=BTree())

    def search(self, vector, limit, effort):
        # The graph has bytes, so more are compared in full precision, and at least as many are visited.
        query = self.table.search(vector).limit(BEST).ef(max(effort, 3 * BEST)).nprobes(1).refine_factor(3)
        if limit < count:
            query = query.where(f"price < {limit}", prefilter=True)
        return query.select(["id", "_distance"]).to_arrow()["id"].to_pylist()

    def stop(self):
        shutil.rmtree(self.folder)


class QdrantEdge:
    def __init__(self):
        import qdrant_edge as qdrant

        self.qdrant, self.folder = qdrant, tempfile.mkdtemp(prefix="peers-")
        hnsw = qdrant.HnswIndexConfig(m=LINKS, ef_construct=CHOSEN_AMONG, full_scan_threshold=10_000)
        parameters = qdrant.EdgeVectorParams(size=DIMENSION, distance=qdrant.Distance.Dot)
        optimizers = qdrant.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1_000)
        config = qdrant.EdgeConfig(vectors=parameters, hnsw_config=hnsw, optimizers=optimizers)
        self.shard = qdrant.EdgeShard.create(self.folder, config)
        update = qdrant.UpdateOperation
        self.shard.update(update.create_field_index("price", qdrant.PayloadSchemaType.Float))
        for first in range(0, count, 1_000):
            numbers = range(first, min(first + 1_000, count))
            points = [qdrant.Point(n, vectors[n].tolist(), {"price": float(n)}) for n in numbers]
            self.shard.update(update.upsert_points(points))
        while self.shard.optimize():
            pass

    def search(self, vector, limit, effort):
        below = self.qdrant.FieldCondition("price", range=self.qdrant.RangeFloat(lt=float(limit)))
        request = self.qdrant.QueryRequest(
            limit=BEST,
            query=self.qdrant.Query.Nearest(vector.tolist()),
            filter=self.qdrant.Filter(must=[below]) if limit < count else None,
            params=self.qdrant.SearchParams(hnsw_ef=effort),
        )
        return [point.id for point in self.shard.query(request)]

    def stop(self):
        self.shard.close()
        shutil.rmtree(self.folder)


class PgVector:
    def __init__(self):
        self.postgres = Postgres(free_port(), shared_buffers="2GB", maintenance_work_mem="2GB", fsync="off")
        self.pid = self.postgres.process.pid
        self.connection = connection = self.postgres.connect()
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE products (id bigint PRIMARY KEY, price float8 NOT NULL, vector vector({DIMENSION}))")
        with connection.cursor().copy("COPY products FROM STDIN") as copy:
            for number, vector in enumerate(vectors):
                copy.write_row((number, float(number), self.text(vector)))
        connection.execute("CREATE INDEX ON products (price)")
        connection.execute(
            f"CREATE INDEX ON products USING hnsw (vector vector_ip_ops) WITH (m = {LINKS}, ef_construction = {CHOSEN_AMONG})"
        )
        connection.execute("VACUUM ANALYZE products")
        connection.execute("SET hnsw.iterative_scan = strict_order")
        connection.execute("SET hnsw.max_scan_tuples = 1000000")

    def text(self, vector):
        return "[" + ",".join(f"{value:.7g}" for value in vector) + "]"

    def search(self, vector, limit, effort):
        self.connection.execute(f"SET hnsw.ef_search = {min(effort, 1000)}")
        where = f"WHERE price < {limit}" if limit < count else ""
        query = f"SELECT id FROM products {where} ORDER BY vector <#> %s::vector LIMIT {BEST}"
        return [number for number, in self.connection.execute(query, (self.text(vector),))]

    def stop(self):
        self.connection.close()
        self.postgres.stop()


class OfMatchbook:
    """Its effort is not a setting."""

    efforts = [0]

    def __init__(self):
        self.server = Matchbook(programs)
        self.pid = self.server.process.pid
        for first in range(0, count, 1_000):
            numbers = range(first, min(first + 1_000, count))
            self.call("/api/v1/products/batch", [{"id": n, "name": f"product {n}", "price": n} for n in numbers])
            rounded = np.round(vectors[first : first + 1_000].astype(float), 7).tolist()
            of_product = zip(numbers, rounded, strict=True)
            embedded = [{"product_id": n, "model_id": "bench", "vector": vector} for n, vector in of_product]
            position = self.call("/api/v1/products/embeddings/batch", embedded)["position"]
        self.call("/api/v1/search", {"query": "product"}, position)
        while any(index["indexed"] != index["vectors"] for index in self.call("/status")["vector_indexes"]):
            time.sleep(0.5)

    def call(self, path, body=None, position=0):
        headers = {"Content-Type": "application/json", "X-Min-Position": str(position)}
        data = None if body is None else json.dumps(body).encode()
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(self.server.url + path, data, headers)) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # The index has not reached the position in time.
                if error.code != 503:
                    raise SystemExit(f"{path}: {error.code} {error.read().decode()}")

    def search(self, vector, limit, effort):
        body = {"model_id": "bench", "vector": vector.tolist(), "limit": BEST}
        if limit < count:
            body["filters"] = {"max_price": limit - 1}
        return [product["id"] for product in self.call("/api/v1/search", body)["results"]]

    def stop(self):
        self.server.stop()


def used_by(engine):
    """The seconds of CPU of the process that searches."""
    return cpu(engine.pid) if hasattr(engine, "pid") else time.process_time()


def measure(engine, share, effort, part):
    """The recall, the CPU of a query in milliseconds, and the median time."""
    limit, found, times = int(count * share), 0, []
    wanted = list(zip(queries[share], exact[share], strict=True))[part]
    before = used_by(engine)
    for vector, best in wanted:
        started = time.perf_counter()
        results = engine.search(vector, limit, effort)
        times.append((time.perf_counter() - started) * 1e3)
        found += len(best & {int(number) for number in results})
    used = (used_by(engine) - before) * 1e3 / len(wanted)
    return found / (BEST * len(wanted)), used, sorted(times)[len(times) // 2]


ENGINES = {
    "hnswlib": Hnswlib, "FAISS": Faiss, "LanceDB": LanceDb, "qdrant-edge": QdrantEdge, "pgvector": PgVector, "Matchbook": OfMatchbook,
}
half = queries_each // 2
for name in chosen or ENGINES:
    before, started = time.process_time(), time.perf_counter()
    engine = ENGINES[name]()
    built = used_by(engine) - (0 if hasattr(engine, "pid") else before)
    print(f"{name}: {count} vectors, built in {time.perf_counter() - started:.0f} s with {built:.0f} s of CPU", flush=True)
    for share in getattr(engine, "shares", SHARES):
        efforts = getattr(engine, "efforts", EFFORTS)
        enough = next((one for one in efforts if measure(engine, share, one, slice(half))[0] >= WANTED), efforts[-1])
        recall, used, median = measure(engine, share, enough, slice(half, None))
        print(
            f"  {share:.1%} pass, effort {enough}: recall@{BEST} {recall:.4f}, {used:.2f} ms of CPU, p50 {median:.2f} ms", flush=True
        )
    if name == "Matchbook":
        print(f"  {memory(engine.pid)} MiB")
    if hasattr(engine, "stop"):
        engine.stop()
    del engine
