"""Ours and the raw library on an NVIDIA GPU: `python -m benchmarks.gpu`, some five minutes."""
