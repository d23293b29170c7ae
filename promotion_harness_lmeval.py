"""Tells lm-eval 0.4.13, which has no plugins, that a model named `harness` exists.

torch calls `register` when it is imported (entry point group `torch.backends`), and lm-eval imports torch before it
looks a model up. Nothing is imported unless lm-eval already runs, and nothing that goes wrong here reaches torch. The
module lies outside the package `harness` on purpose: a folder of that common name in somebody's working directory
would hide the package, and `import torch` would fail. Later versions of lm-eval read the entry points of group
`lm_eval.models` instead. TORCH_DEVICE_BACKEND_AUTOLOAD=0 switches this off.
"""

import contextlib
import sys


def register() -> None:
    """Register a lazy placeholder; the model's module is imported when lm-eval is asked for it."""
    if "lm_eval" not in sys.modules:
        return
    with contextlib.suppress(Exception):
        import lm_eval.models  # noqa: F401  # fills the registry, which lm-eval itself does only as long as it is empty
        from lm_eval.api import registry

        # import_plugins marks the versions that find the model by its entry point.
        if not hasattr(registry, "import_plugins") and "harness" not in registry.model_registry:
            registry.model_registry.register("harness", target="harness.lmeval:HarnessLM")
