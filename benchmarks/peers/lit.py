"""LitServe around the same pipeline, with its request-level batching: requests that wait together are painted together."""

from __future__ import annotations

import sys
from pathlib import Path

import litserve

from benchmarks.peers.painter import Painter
from fashiondpo.messages import GenerateRequest


class PaintAPI(litserve.LitAPI):
    """Collects requests into batches; a batch is answered when all of it is painted."""

    def __init__(self, bundle: Path, data: Path, threads: int, max_batch_size: int) -> None:
        """The model is loaded later, in LitServe's worker process."""
        super().__init__(max_batch_size=max_batch_size, batch_timeout=0.01 if max_batch_size > 1 else 0.0)
        self.api_path = "/generate"
        self._places = bundle, data, threads

    def setup(self, device: str) -> None:
        """Load the model."""
        self.painter = Painter(*self._places)

    def decode_request(self, request: dict[str, object]) -> GenerateRequest:
        """The body."""
        return GenerateRequest.model_validate(request)

    def batch(self, inputs: list[GenerateRequest]) -> list[GenerateRequest]:
        """As it is: settings may differ, so there is nothing to stack."""
        return inputs

    def predict(self, batch: list[GenerateRequest] | GenerateRequest) -> list[list[str]] | list[str]:
        """Paint the whole batch."""
        return self.painter.paint(batch) if isinstance(batch, list) else self.painter.paint([batch])[0]

    def unbatch(self, output: list[list[str]]) -> list[list[str]]:
        """One entry per request."""
        return output

    def encode_response(self, output: list[str]) -> list[str]:
        """As it is."""
        return output


if __name__ == "__main__":
    bundle, data, port, threads, batch = sys.argv[1:]
    api = PaintAPI(Path(bundle), Path(data), int(threads), int(batch))
    server = litserve.LitServer(api, accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
