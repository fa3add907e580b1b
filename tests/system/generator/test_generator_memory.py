"""After a crowd has gone, a generator holds no more memory than before."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.generator_calls import completion


def test_memory_returns_to_its_level_after_a_crowd_of_five_times_what_fits(start_generator):
    generator = start_generator(max_queued_rows=20, kept_generations=20)

    def ask(seed: int) -> int:
        body = completion(num_candidates=4, steps=2, seed=seed, record=True)
        return client.post(f"{generator.url}/generate", json=body).status_code

    def crowd() -> set[int]:
        with ThreadPoolExecutor(25) as pool:
            return set(pool.map(ask, range(40)))

    with httpx.Client(timeout=60) as client:
        crowd()
        before = generator.memory_bytes()
        statuses = crowd() | crowd()
    assert statuses == {200, 429}
    assert generator.memory_bytes() - before < 30e6
