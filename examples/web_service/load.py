"""Load for the web service: a bounded number of requests from several threads, and its figures.

python examples/web_service/load.py http://127.0.0.1:8000 --requests 500 --clients 4
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from convkit import data


def ask(url: str, body: bytes) -> tuple[str, float]:
    """Return the label that the service gives, and the seconds it took."""
    start = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        label = json.load(answer)["label"]
    return label, time.perf_counter() - start


def run(base: str, requests: int, clients: int) -> dict[str, float]:
    """Send the requests; return requests a second, latencies and the share of right labels."""
    test = data.digits("test")
    bodies, labels = [], []
    for i in range(min(requests, 200)):
        buffer = io.BytesIO()
        Image.fromarray(test.images[i, 0]).save(buffer, "PNG")
        bodies.append(buffer.getvalue())
        labels.append(str(test.labels[i]))
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as team:
        answers = list(team.map(lambda i: ask(f"{base}/predict", bodies[i % len(bodies)]),
                                range(requests)))
    spent = time.perf_counter() - start
    times = sorted(seconds for _, seconds in answers)
    right = statistics.mean(label == labels[i % len(labels)]
                            for i, (label, _) in enumerate(answers))
    return {"requests per second": requests / spent, "median ms": 1e3 * statistics.median(times),
            "99% ms": 1e3 * times[int(0.99 * (requests - 1))], "accuracy": right}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    for name, value in run(options.url, options.requests, options.clients).items():
        print(f"{name:20} {value:.3f}")


if __name__ == "__main__":
    main()
