"""What `/metrics` tells Prometheus: vLLM's names, where the meaning is the same."""

from collections.abc import Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from star_jax.serve.jobs import Job

_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUEST = (0.01, 0.03, 0.1, 0.3, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


class Metrics:
    """Numbers of one server, in a registry of their own.

    Names with `star_jax:` are ours alone. Counts of prompts and of the prefix cache are in tokens.
    """

    def __init__(self, model: str):
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, ["model_name", *labels], registry=self.registry)
            return made if labels else made.labels(model)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=self.registry).labels(model)

        def histogram(name: str, text: str, buckets: Sequence[float | int] = _REQUEST) -> Histogram:
            made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model)

        self._model = model
        self.running = gauge("vllm:num_requests_running", "Requests that are being answered.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests that wait, or are encoded.")
        self.usage = gauge(
            "vllm:kv_cache_usage_perc",
            "Stored contexts' bytes on the devices, as a share of what is allowed.",
        )
        self.queried = counter("vllm:prefix_cache_queries", "Tokens that were looked for.")
        self.found = counter("vllm:prefix_cache_hits", "Tokens that were found encoded.")
        self.prompt = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generated = counter("vllm:generation_tokens", "Tokens of answers.")
        self.ended = counter("vllm:request_success", "Answers that ended.", "finished_reason")
        self.waves = counter("star_jax:prefill_waves", "Waves of blocks that were encoded.")
        self.first = histogram("vllm:time_to_first_token_seconds", "From arrival on.")
        self.between = histogram("vllm:inter_token_latency_seconds", "A token's share.", _TOKEN)
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.")
        self.queue = histogram("vllm:request_queue_time_seconds", "Until the devices begin.")
        self.prefill = histogram("vllm:request_prefill_time_seconds", "Then to the first token.")
        self.decode = histogram("vllm:request_decode_time_seconds", "Then to the end.")

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return prometheus_client.generate_latest(self.registry)

    def tokens(self, job: Job, answer: int, count: int, now: float) -> None:
        """New tokens of one of a request's answers are there."""
        if job.first is None:
            job.first = now
            self.first.observe(now - job.arrived)
        if count:
            for _ in range(count if answer in job.last else 0):
                self.between.observe((now - job.last[answer]) / count)
            job.last[answer] = now
        job.made += count
        self.generated.inc(count)

    def answered(self, reason: str) -> None:
        """One answer has ended."""
        self.ended.labels(self._model, reason).inc()

    def done(self, job: Job, now: float) -> None:
        """All answers of a request have ended."""
        begun = job.arrived if job.begun is None else job.begun
        first = now if job.first is None else job.first
        self.prompt.inc(len(job.ask.tokens))
        self.whole.observe(now - job.arrived)
        self.queue.observe(begun - job.arrived)
        self.prefill.observe(first - begun)
        self.decode.observe(now - first)
