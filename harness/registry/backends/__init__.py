"""Where promotions are kept: a folder, an MLflow server, the Hugging Face Hub.

A backend plugin's `Options` has one field, `address`, and its `build(options)` returns a `harness.registry.Registry`.
"""
