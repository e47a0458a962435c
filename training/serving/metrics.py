"""Counts requests, and writes the counts in Prometheus' text format."""

import bisect
from collections import Counter

BUCKETS_MICROSECONDS = [1000 * 2**power for power in range(17)]  # 1 ms to 65 s


class Metrics:
    """Counts requests by outcome and latency, under TensorFlow Serving's names."""

    def __init__(self, model: str):
        self.model = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        self.num_requests = Counter()  # by code
        self.buckets = [0] * (len(BUCKETS_MICROSECONDS) + 1)
        self.sum_microseconds = 0

    def count(self, code: str, seconds: float) -> None:
        """Counts one request."""
        microseconds = round(seconds * 1e6)
        self.num_requests[code] += 1
        self.buckets[bisect.bisect_left(BUCKETS_MICROSECONDS, microseconds)] += 1
        self.sum_microseconds += microseconds

    def page(self, num_runs: int, num_rows: int) -> str:
        """Returns all counts as text.

        Two of them exist in this server only: calls of the model, and rows in them.
        """
        latency = ":tensorflow:serving:request_latency"
        labels = f'model_name="{self.model}",API="predict",entrypoint="REST"'
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        for code, number in sorted(self.num_requests.items()):
            status = f'model_name="{self.model}",status="{code}"'
            lines.append(f":tensorflow:serving:request_count{{{status}}} {number}")
        lines.append(f"# TYPE {latency} histogram")
        total = 0
        for edge, number in zip([*BUCKETS_MICROSECONDS, "+Inf"], self.buckets, strict=True):
            total += number
            lines.append(f'{latency}_bucket{{{labels},le="{edge}"}} {total}')
        lines.append(f"{latency}_sum{{{labels}}} {self.sum_microseconds}")
        lines.append(f"{latency}_count{{{labels}}} {total}")
        for name, number in (("runs", num_runs), ("rows", num_rows)):
            lines.append(f"# TYPE local_server_{name}_total counter")
            lines.append(f'local_server_{name}_total{{model_name="{self.model}"}} {number}')
        return "\n".join(lines) + "\n"
