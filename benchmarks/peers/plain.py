"""A plain FastAPI route around the pipeline: one request at a time, each in the order in which it got the lock."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Lock

import uvicorn
from fastapi import FastAPI

from benchmarks.peers.painter import Painter
from fashiondpo.messages import GenerateRequest


def create_app(painter: Painter) -> FastAPI:
    """POST /generate, as one writes it on the first day."""
    app, lock = FastAPI(), Lock()

    @app.post("/generate")
    def generate(body: GenerateRequest) -> list[str]:
        with lock:
            return painter.paint([body])[0]

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    bundle, data, port, threads = sys.argv[1:]
    uvicorn.run(create_app(Painter(Path(bundle), Path(data), int(threads))), port=int(port), log_level="warning")
