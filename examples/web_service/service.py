"""A web service: digits as PNG files in, labels as JSON out, by several threads at once.

One Program serves all threads: calls need no lock, each has its own memory from a bounded
pool. It has one thread of its own, because the server's threads already fill the CPUs.

    python examples/web_service/service.py --model digits.ckit --port 8000
    curl --data-binary @digit.png http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import io
import sys
import threading
import time
from pathlib import Path

import numpy as np
from flask import Flask, jsonify, request
from PIL import Image, UnidentifiedImageError
from werkzeug.serving import make_server

import convkit as ck

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from digits_model import SIZE, as_input, ensure

MOST_BYTES = 1 << 20


def create_app(model: Path) -> Flask:
    """Return the application; the model is loaded once and warmed up."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    program = ck.load(model, threads=1)
    program.warm_up()
    served, lock = {"requests": 0, "seconds": 0.0}, threading.Lock()

    @app.post("/predict")
    def predict():
        try:
            with Image.open(io.BytesIO(request.get_data())) as image:
                pixels = np.asarray(image.convert("L").resize((SIZE, SIZE)))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
            return jsonify(error="expected an image in the body"), 400
        start = time.perf_counter()
        scores = program(as_input(program, pixels[None]))[0]
        with lock:
            served["requests"] += 1
            served["seconds"] += time.perf_counter() - start
        share = np.exp(scores - scores.max())
        best = int(scores.argmax())
        return jsonify(label=program.labels[best], share=float(share[best] / share.sum()))

    @app.get("/load")
    def load():
        with lock:
            count = served["requests"]
            mean = served["seconds"] / count if count else 0.0
        return jsonify(requests=count, milliseconds_in_the_network=1e3 * mean,
                       threads=threading.active_count())

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("digits.ckit"))
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    server = make_server("127.0.0.1", options.port, create_app(ensure(options.model)),
                         threaded=True)
    print(f"serving http://127.0.0.1:{server.port}/predict", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
