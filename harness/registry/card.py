"""The model card of a promoted adapter, as the Hugging Face Hub reads it: `model-index` results from the verdict

It holds figures and names, quoted by YAML, and none of the texts that a model or a golden set has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from harness.registry import Promotion
from harness.registry.statement import VERDICT

_BODY = """
# A promoted adapter

This {artifact} was promoted by Harness {version}: verdict **{verdict}**, promotion `{identity}`.
{override}
Before you serve it, verify it, by what you know of whoever promoted it; nothing that lies here is trusted by itself:

```console
$ hf download REPOSITORY --revision {alias} --local-dir adapter
$ harness verify adapter {verified_with}
```
"""
_OVERRIDDEN = (
    "\nThe gate did not promote it: somebody did all the same, and `promotion/record.json` says who and why.\n"
)


def render(promotion: Promotion, name: str, alias: str, verified_with: str) -> str:
    """README.md of the branch `alias` of a repository `name`; `verified_with` are the options that verify it."""
    claim = promotion.claim
    verdict = json.loads(promotion.papers[VERDICT])
    front = {
        **({"library_name": "peft"} if claim["artifact"] == "adapter" else {}),
        "tags": ["promotion-harness", f"verdict-{claim['verdict']}"],
        "model-index": [{"name": name, "results": list(_results(verdict))}],
    }
    body = _BODY.format(
        artifact=claim["artifact"],
        version=claim["version"],
        verdict=claim["verdict"].upper(),
        identity=promotion.identity,
        override=_OVERRIDDEN if claim["override"] else "",
        alias=alias,
        verified_with=verified_with,
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{body}"


def metrics(promotion: Promotion) -> dict[str, float]:
    """Means and differences of every whole guard, by `suite/metric/…`, in score points."""
    verdict, found = json.loads(promotion.papers[VERDICT]), {}
    for said in verdict["comparisons"]:
        if said["slice"] is None:
            for key in ("candidate_mean", "baseline_mean", "difference"):
                if said[key] is not None:
                    found[f"{said['suite']}/{said['metric']}/{key}"] = float(said[key])
    return found


def _results(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One result a suite, with a metric for each of its whole guards that has a mean."""
    by_suite: dict[str, list[dict[str, Any]]] = {}
    for said in verdict["comparisons"]:
        if said["slice"] is None and said["candidate_mean"] is not None:
            value = {"type": said["metric"], "name": said["metric"], "value": said["candidate_mean"]}
            by_suite.setdefault(said["suite"], []).append(value)
    for suite, values in by_suite.items():
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"name": suite, "type": suite},
            "metrics": values,
        }
