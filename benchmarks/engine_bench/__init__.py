"""Parts of `benchmarks/engine.py`: the model, the requests, the processes that answer them, the tables."""
