"""Scores on benchmarks, from local copies of their data."""

import zephyr

made = zephyr.evaluate("model", ["winogrande"], data="data", shots=1, limit=8)
print(made.metrics, made.results["tasks"]["winogrande"]["scores"]["score"])
