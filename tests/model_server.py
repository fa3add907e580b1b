"""Answers of model servers as they come over the wire, and `transformers serve` as a process over a tiny model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.polling import eventually


def completion(
    said: str,
    alternatives: Mapping[str, float] | None = None,
    *,
    tokens: Sequence[tuple[str, Mapping[str, float]]] = (),
) -> bytes:
    """A chat completion; its one token comes with these alternatives, or there are several tokens with theirs."""
    told = list(tokens) or ([(said, alternatives)] if alternatives is not None else [])
    content = [
        {
            "token": token,
            "logprob": of_token.get(token, -0.01),
            "top_logprobs": [{"token": other, "logprob": value} for other, value in of_token.items()],
        }
        for token, of_token in told
    ]
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    choice["logprobs"] = {"content": content} if content else None
    return json.dumps({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}).encode()


def decision(probabilities: Sequence[float], *, question: str = "quality") -> bytes:
    """An answer of /v1/systemone to a question of type score."""
    told = {str(level): value for level, value in enumerate(probabilities)}
    answer = {"type": "score", "score": 0.0, "legend": {}, "confidence": 0.0, "probabilities": told}
    return json.dumps({"model": "m", "answers": {question: answer}, "usage": {}}).encode()


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """`transformers serve` with this model loaded; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", model, "--port", str(port), "--device", "cpu"]
    log = model.parent / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--dtype", "float32", "--reasoning", "off"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_up, within_s=180)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
