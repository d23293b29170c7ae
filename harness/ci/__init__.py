"""What a CI job does with a gate's result: summary, annotations, one comment, cache key, exit code

Everything here reads what `harness gate` left behind; nothing loads a model, so the core install is enough. A CI
configuration stays thin: its steps call `harness ci …`, and the logic is here, where it is tested.
"""
