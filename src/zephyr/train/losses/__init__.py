"""Losses as pure functions of per-sequence log-probs; nothing here knows a model or how a batch is cut.

``pairs`` compares with a reference, ``reference_free`` does without, ``kto`` takes unpaired labels,
``listwise`` whole rankings. Log-probs are float32 or float64 vectors (n,) on any device; a loss is a vector
(n,) too.
"""
