"""Losses as pure functions of per-sequence log-probs; nothing here knows a model or how a batch is cut.

``pairs`` compares pairs and whole rankings with a reference, ``reference_free`` pairs without one, ``kto`` takes
unpaired labels. Log-probs are float32 or float64 vectors (n,) on any device; a loss is a vector (n,) too.
"""
