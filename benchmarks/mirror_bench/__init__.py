"""Parts of `benchmarks/mirror.py`."""
