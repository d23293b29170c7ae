"""What `benchmarks/forgetting.py` is made of: settings and arms, one training each, tables and a figure."""
