"""A made-up run with everything a report can hold: nine suites, slices, failed checks and 400 samples."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from harness.drift import SuiteDrift
from harness.records import Check, Comparison, Decision, Score, Verdict
from harness.report import Change, Document, Item

_TOPICS = ("card-lost", "refund", "fees", "transfer", "login", "loan")
_SUBJECTS = (
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "college_physics", "econometrics",
    "formal_logic", "global_facts", "high_school_statistics", "jurisprudence", "machine_learning",
    "moral_disputes", "nutrition", "philosophy", "professional_law", "us_foreign_policy", "virology",
)  # fmt: skip


def comparison(suite: str, metric: str = "exact_match", *, used: int = 500, n: int = 500, **given: Any) -> Comparison:
    """A comparison whose means follow from its baseline and difference."""
    difference = given.pop("difference", 0.0)
    half = given.pop("half", 0.012)
    baseline = given.pop("baseline", 0.8)
    sign = 1 if given.get("higher_is_better", True) else -1
    values: dict[str, Any] = {
        "slice": None, "estimand": "frozen", "outcome": "pass", "n_failed": 0, "baseline_mean": baseline,
        "candidate_mean": baseline + sign * difference, "difference": difference,
        "interval": (difference - half, difference + half), "margin": 0.02, "alpha": 0.05, "lost": 12, "won": 9,
        "population_interval": (difference - 2.1 * half, difference + 2.1 * half),
        "smallest_detectable_drop": 0.011, "log_e_pass": 3.7, "log_e_block": -3.9,
    }  # fmt: skip
    return Comparison(suite=suite, metric=metric, n=n, n_used=used, **{**values, **given})


def comparisons() -> tuple[Comparison, ...]:
    """Nine suites: two regressed, one undecided, one that demands a gain, three metrics in their own unit."""
    return (
        comparison("golden/support-answers", used=380, n=380, difference=0.085, half=0.022, baseline=0.704,
                   must_improve=0.05, lost=11, won=43, log_e_pass=5.4),
        comparison("golden/safety-refusals", "refused", used=240, n=240, difference=0.004, half=0.006,
                   baseline=0.971, margin=0.01, lost=1, won=2, mcnemar_p=1.0),
        comparison("golden/json-tools", "schema_valid", used=212, n=400, difference=-0.094, half=0.037,
                   baseline=0.948, outcome="regressed", lost=24, won=4, log_e_pass=-9.1, log_e_block=5.96,
                   mcnemar_p=0.0002, forgetting=0.099),
        comparison("capability/gsm8k", used=620, n=1319, difference=-0.047, half=0.021, baseline=0.561,
                   outcome="regressed", lost=61, won=32, log_e_block=4.57, mcnemar_p=0.0035, forgetting=0.084),
        comparison("capability/mmlu", "accuracy", used=1900, n=2850, difference=-0.006, half=0.011, baseline=0.628,
                   lost=101, won=90, forgetting=0.016, fragile=True,
                   population_interval=(-0.0235, 0.0115)),
        comparison("capability/ifeval", "prompt_strict", used=541, n=541, difference=-0.013, half=0.0, baseline=0.566,
                   interval=(-0.013, -0.013), fragile=True, lost=31, won=24, mcnemar_p=0.42),
        comparison("judge/helpfulness", "rating", used=300, n=300, difference=0.12, half=0.14, baseline=3.91,
                   bounds=(1.0, 5.0), margin=0.2, lost=38, won=61),
        comparison("shadow/production", "preferred", used=744, n=1200, n_failed=31, difference=-0.011, half=0.034,
                   baseline=0.5, outcome="undecided", estimand="population", population_interval=(-0.045, 0.023),
                   lost=120, won=112, log_e_pass=1.1, log_e_block=-0.4,
                   reason="31 of 775 pairs failed (4.0 %), above the 2 % that are tolerated."),
        comparison("capability/wikitext", "bits_per_byte", used=62, n=62, difference=-0.004, half=0.006,
                   baseline=0.741, bounds=(0.0, 8.0), margin=0.02, higher_is_better=False, required=False,
                   lost=34, won=28),
        comparison("golden/translation", "chrf", used=200, n=200, difference=0.8, half=1.1, baseline=57.3,
                   bounds=(0.0, 100.0), margin=1.5, required=False, lost=88, won=104),
        *_slices(),
    )  # fmt: skip


def _slices() -> list[Comparison]:
    rng = random.Random(4)
    made = []
    for suite, metric, names, shift in (
        ("golden/support-answers", "exact_match", _TOPICS, 0.07),
        ("golden/json-tools", "schema_valid", ("nested", "enum", "dates", "many-arguments"), -0.08),
        ("capability/mmlu", "accuracy", _SUBJECTS, -0.01),
    ):
        for name in names:
            d = round(rng.gauss(shift, 0.045), 3)
            half = rng.uniform(0.02, 0.06)
            outcome = "regressed" if d + half < -0.03 else "pass" if d - half > -0.03 else "undecided"
            used = rng.randint(20, 140)
            made.append(
                comparison(suite, metric, used=used, n=used, slice=name, difference=d, half=half, margin=0.03,
                           outcome=outcome, required=False, lost=rng.randint(0, 9), won=rng.randint(0, 9))
            )  # fmt: skip
    return made


def drift() -> tuple[SuiteDrift, ...]:
    """Three suites: one that differs late, one where float noise may have a part, one that is alike throughout."""
    return (
        SuiteDrift("golden/support-answers", 380, 97, (6.0, 14.5, 31.0), 9_120, 21_604, 0.0173, 12, 9),
        SuiteDrift("capability/gsm8k", 620, 402, (22.0, 61.0, 118.0), 58_310, 71_944, 0.00042, 3, 1),
        SuiteDrift("golden/json-tools", 212, 212, None, 9_328, 9_328, None, 0, 0),
    )


def checks() -> tuple[Check, ...]:
    """Seven that passed and one that did not."""
    passed = (
        ("golden lock", "11 files match goldensets/LOCK.yaml"),
        ("adapter for base", "base_model_name and 28 target modules agree"),
        ("adapter active", "largest logit difference on the probe: 3.41"),
        ("tokenizer", "same vocabulary, same chat template"),
        ("weights format", "safetensors only"),
        ("few-shot leak", "no few-shot example is a sample"),
        ("noise floor", "baseline against itself: 0.00 pts"),
    )
    failed = Check(
        "training overlap",
        False,
        "3 of 9,210 training rows share a 13-gram with golden/json-tools; remove them and train again",
    )
    return (*(Check(name, True, detail) for name, detail in passed), failed)


def items(count: int = 400) -> tuple[Item, ...]:
    """Samples of four suites, deterministic, some long, some failed."""
    rng = random.Random(7)
    return tuple(_item(index, rng) for index in range(count))


def _item(index: int, rng: random.Random) -> Item:
    change: Change = rng.choices(("lost", "won", "failed", "changed"), (5, 3, 1, 2))[0]
    prompt, target, good, bad, suite, metric, tag = rng.choice((_tool, _maths, _support))(index, rng)
    baseline, candidate = (good, bad) if change == "lost" else (bad, good)
    scores = {"lost": (1, 0), "won": (0, 1), "changed": (1, 1)}
    if change == "failed":
        pair = (Score.of(1), Score.failed("the server closed the connection after 30 s"))
        candidate = ""
    else:
        pair = (Score.of(scores[change][0]), Score.of(scores[change][1]))
    return Item(suite, metric, f"{suite.split('/')[1]}-{index:04d}", (tag,), prompt, target, baseline, candidate,
                *pair, change)  # fmt: skip


def _tool(index: int, rng: random.Random) -> tuple[str, ...]:
    amount, day = rng.randint(20, 900), rng.randint(1, 28)
    prompt = (
        "You can call `transfer(to, amount, currency, date)`. Answer with the call as JSON and nothing else.\n\n"
        f"User: Please send {amount} euros to Ana Lindqvist on the {day}th of March, and tell me when it is done."
    )
    good = (
        f'{{"name": "transfer", "arguments": {{"to": "Ana Lindqvist", "amount": {amount}, '
        f'"currency": "EUR", "date": "2026-03-{day:02d}"}}}}'
    )
    bad = good.replace(f'"amount": {amount}', f'"amount": "{amount} euros"').replace('"EUR"', '"€"')
    return prompt, good, good, bad, "golden/json-tools", "schema_valid", rng.choice(("nested", "enum", "dates"))


def _maths(index: int, rng: random.Random) -> tuple[str, ...]:
    boxes, each, gone = rng.randint(3, 19), rng.randint(6, 40), rng.randint(2, 17)
    answer = boxes * each - gone
    prompt = (
        f"Question: A bakery fills {boxes} boxes with {each} rolls each. On the way to the market {gone} rolls fall "
        "out and are given to the ducks. How many rolls arrive at the market?\nAnswer:"
    )
    good = f"There are {boxes} × {each} = {boxes * each} rolls. {boxes * each} − {gone} = {answer}.\n#### {answer}"
    bad = f"There are {boxes} × {each} = {boxes * each} rolls. {gone} rolls are lost.\n#### {boxes * each + gone}"
    return prompt, str(answer), good, bad, "capability/gsm8k", "exact_match", "arithmetic"


def _support(index: int, rng: random.Random) -> tuple[str, ...]:
    topic = rng.choice(_TOPICS)
    prompt = f"A customer writes about {topic.replace('-', ' ')}: “I have waited for {index % 9 + 2} days. What now?”"
    good = "I am sorry for the wait. I have opened a ticket; you will have an answer by tomorrow, 12:00."
    bad = "I am sorry for the wait. Please write to our support team, who will be happy to help you."
    return prompt, "opens a ticket and gives a time", good, bad, "golden/support-answers", "exact_match", topic


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manifest() -> dict[str, Any]:
    """What was compared, in the names that reports know, and a little more."""
    return {
        "run_id": "support-lora-r16-7",
        "baseline": {"name": "Qwen3-0.6B", "fingerprint": _digest("base")},
        "candidate": {"name": "Qwen3-0.6B + adapters/support-lora-r16", "fingerprint": _digest("adapter")},
        "golden_lock": _digest("lock"),
        "policy": _digest("policy"),
        "seed": 20260307,
        "command": "harness gate gate.yaml --candidate adapters/support-lora-r16",
        "versions": {"harness": "0.1.0", "torch": "2.9.1", "transformers": "5.23.0", "peft": "0.21.2"},
        "hub_token": "hf_not_for_anyones_eyes",
    }


REASONS: dict[Decision, tuple[str, ...]] = {
    "promote": ("All required guards hold: no drop beyond its margin, and support answers gained 8.5 points.",),
    "block": (
        "golden/json-tools/schema_valid regressed: 0.948 → 0.854 (difference -0.094, tolerated −0.02; "
        "24 lost, 4 won, 212 of 400 samples used)",
        "capability/gsm8k/exact_match regressed: 0.561 → 0.514 (difference -0.047, tolerated −0.02; "
        "61 lost, 32 won, 620 of 1319 samples used)",
        "shadow/production/preferred is undecided: 31 of 775 pairs failed (4.0 %), above the 2 % tolerated",
    ),
    "hold": (
        "pre-flight check training overlap failed: 3 of 9,210 training rows share a 13-gram with golden/json-tools; "
        "remove them and train again",
        "shadow/production/preferred is undecided: 31 of 775 pairs failed (4.0 %), above the 2 % tolerated",
    ),
}


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- --> <svg/onload=alert(1)>",
    "\u2028\u2029 {{7*7}} {% raw %} ${7*7}",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example>",
    "@everyone #12 GH-7 www.evil.example https://evil.example admin@evil.example",
    "` `` ``` ```` ~~~\n```\n<b>out</b>\n# heading\n| a | b |\n|---|---|\n</details>",
    "\x00\x08\x1b[31mred\x1b]0;title\x07\x9b \ud800 \ufffe \u202eevil\u202c",
    "| pipe | \\| and ]]> and \" ' & &lt; &#64;team",
    "- 1. # [bold red]x[/] **bold** _it_ \r\n\r\n<details open>",
)


def hostile() -> Document:
    """Every text of a document is an attack."""
    every = tuple(comparison(a, b, slice=s, outcome="regressed", required=True, reason=a)
                  for a, b, s in zip(HOSTILE, reversed(HOSTILE), (None, *HOSTILE[1:]), strict=True))  # fmt: skip
    more = tuple(comparison(a, slice=a, required=False) for a in HOSTILE)
    verdict = Verdict("block", HOSTILE, every + more, tuple(Check(a, False, a) for a in HOSTILE))
    lost = tuple(
        Item(c.suite, c.metric, a, HOSTILE, a, a, a, a[::-1], Score.of(1), Score.of(0), "lost")
        for a, c in zip(HOSTILE, every, strict=True)
    )
    failed = tuple(
        Item(a, a, a, (a,), a, a, a, "", Score.of(1), Score.failed(a), "failed") for a in HOSTILE
    )  # fmt: skip
    keys = {a: {"name": a, a: [a]} for a in HOSTILE}
    known = dict.fromkeys(("baseline", "candidate", "golden_lock", "command", "run_id"), HOSTILE[0])
    moved = tuple(SuiteDrift(a, 3, 1, (0.0, 1.0, 2.0), 5, 9, 0.1, 2, 2) for a in HOSTILE)
    return Document(verdict, keys | known, lost + failed, HOSTILE[0], moved)


def document(decision: Decision = "block", count: int = 400) -> Document:
    """The run as a document."""
    every = comparisons()
    if decision == "promote":
        every = tuple(c for c in every if c.outcome == "pass")
    if decision == "hold":
        every = tuple(c for c in every if c.outcome != "regressed")
    verdict = Verdict(decision, REASONS[decision], every, checks() if decision == "hold" else checks()[:-1])
    return Document(verdict, manifest(), items(count), "support-lora-r16 against Qwen3-0.6B", drift())
