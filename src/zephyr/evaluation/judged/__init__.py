"""Benchmarks that a judge rates: MT-Bench, AlpacaEval, comparisons of two models."""
