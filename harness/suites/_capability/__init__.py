"""Parts of the capability suite: finding and loading lm-eval's tasks, local data, metrics, requests, code.

lm-eval is imported inside functions only, because importing it takes seconds.
"""
