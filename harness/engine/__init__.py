"""How a local model answers many requests: batching, padding, decoding. Exactness first: see each module."""
