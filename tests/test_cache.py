"""An output is served to the subject that gave it and to no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cache import OutputCache
from harness.errors import StorageError
from harness.records import Generate, LogLikelihood, Output


def test_what_was_put_is_found_after_reopening(tmp_path: Path) -> None:
    request, output = Generate("hello ✓"), Output(text="wörld", tokens=2)
    with OutputCache(tmp_path / "deep" / "cache.sqlite") as cache:
        cache.put("subject", [(request, output)])
    with OutputCache(tmp_path / "deep" / "cache.sqlite") as cache:
        assert cache.get("subject", [Generate("other"), request]) == {1: output}


def test_another_subject_never_gets_it(tmp_path: Path) -> None:
    with OutputCache(tmp_path / "c") as cache:
        cache.put("base", [(Generate("q"), Output(text="a"))])
        assert cache.get("candidate", [Generate("q")]) == {}


def test_failures_are_not_remembered(tmp_path: Path) -> None:
    with OutputCache(tmp_path / "c") as cache:
        cache.put("s", [(Generate("q"), Output(failure="timeout"))])
        assert cache.get("s", [Generate("q")]) == {}


def test_equal_requests_share_one_answer_and_log_likelihoods_are_exact(tmp_path: Path) -> None:
    value = -1.2345678901234567
    requests = [LogLikelihood("a", "b")] * 3
    with OutputCache(tmp_path / "c") as cache:
        cache.put("s", [(requests[0], Output(logprob=value, is_greedy=True))])
        found = cache.get("s", requests)
    assert [found[i].logprob for i in range(3)] == [value] * 3


def test_more_requests_than_a_statement_takes(tmp_path: Path) -> None:
    requests = [Generate(str(i)) for i in range(1700)]
    with OutputCache(tmp_path / "c") as cache:
        cache.put("s", [(r, Output(text=str(r.prompt))) for r in requests])
        assert len(cache.get("s", requests)) == 1700


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("not a database" * 100, encoding="utf-8")
    with pytest.raises(StorageError, match="output cache"):
        OutputCache(tmp_path / "c")
