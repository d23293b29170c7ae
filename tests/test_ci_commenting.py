"""One comment, updated in place, against servers on this machine that behave as badly as real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.ci import github, gitlab
from harness.ci._http import Api, Unavailable
from harness.ci.commenting import Discussion, Written, publish
from harness.errors import ConfigError, InfrastructureError
from tests.loopback_forges import BOT, NUMBER, SHA, STRANGER, TOKEN, LoopbackForge

TEXT = "<!-- harness-report -->\n\n## new\n"


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackForge]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackForge() as served:
        yield served


@pytest.fixture(params=["github", "gitlab"])
def discussion(request: pytest.FixtureRequest, forge: LoopbackForge, tmp_path: Path) -> Discussion:
    found = (
        github.pull_request(forge.github(tmp_path))
        if request.param == "github"
        else gitlab.merge_request(forge.gitlab())
    )
    assert found is not None
    return found


def never(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s")


def test_the_second_report_takes_the_place_of_the_first(forge: LoopbackForge, discussion: Discussion) -> None:
    assert publish(discussion, TEXT, wait=never) == Written("created")
    assert publish(discussion, TEXT + "newer", wait=never) == Written("updated")
    assert [c["body"] for c in forge.comments] == [TEXT + "newer"]
    assert discussion.job.commit == SHA


def test_it_is_found_behind_hundreds_of_other_comments(forge: LoopbackForge, discussion: Discussion) -> None:
    for n in range(230):
        forge.say(f"chat {n}", STRANGER)
    old = forge.say("<!-- harness-report -->\r\n\r\n## old", BOT)  # as a browser would send it
    for n in range(30):
        forge.say(f"more {n}", STRANGER)
    assert publish(discussion, TEXT, wait=never) == Written("updated")
    assert old["body"] == TEXT
    assert len(forge.comments) == 261


@pytest.mark.parametrize(
    ("body", "user"),
    [
        (TEXT, STRANGER),
        ("> <!-- harness-report -->\nquoted", BOT),
        ("see\n<!-- harness-report -->", BOT),
        ("<!-- harness-report-2 -->", BOT),
    ],
)
def test_no_other_comment_is_touched(
    forge: LoopbackForge, discussion: Discussion, body: str, user: dict[str, object]
) -> None:
    forge.say(body, user)
    assert publish(discussion, TEXT, wait=never) == Written("created")
    assert forge.comments[0]["body"] == body


def test_a_token_that_may_not_write_is_no_failure(forge: LoopbackForge, discussion: Discussion) -> None:
    forge.read_only = True
    written = publish(discussion, TEXT, wait=never)
    assert (written.state, written.detail) == ("refused", "403 Resource not accessible by integration")
    assert forge.comments == []


def test_a_busy_server_is_asked_again_as_late_as_it_wants(forge: LoopbackForge, discussion: Discussion) -> None:
    forge.faults = [
        (503, {}),
        (429, {"Retry-After": "7"}),
        (403, {"x-ratelimit-remaining": "0", "retry-after": "9999"}),
    ]
    waited: list[float] = []
    assert publish(discussion, TEXT, wait=waited.append) == Written("created")
    assert waited == [1, 7, 60]


def test_a_comment_whose_answer_got_lost_is_not_written_twice(forge: LoopbackForge, discussion: Discussion) -> None:
    forge.lose_answers = 1
    assert publish(discussion, TEXT, wait=lambda _: None) == Written("updated")
    assert len(forge.comments) == 1


def test_a_server_that_stays_down_is_an_error_that_says_what_may_be_wrong(
    forge: LoopbackForge, discussion: Discussion
) -> None:
    forge.faults = [(502, {})] * 4
    with pytest.raises(InfrastructureError, match="502 fault; what stands there may be of an older commit"):
        publish(discussion, TEXT, wait=lambda _: None)


def test_an_answer_that_is_neither_is_an_error(forge: LoopbackForge, discussion: Discussion) -> None:
    forge.faults = [(422, {})]
    with pytest.raises(InfrastructureError, match="422"):
        publish(discussion, TEXT, wait=never)


def test_the_token_follows_no_redirect_and_goes_over_no_open_line(forge: LoopbackForge, discussion: Discussion) -> None:
    with LoopbackForge() as thief:
        forge.faults = [(302, {"Location": f"{thief.base}/github"})]
        with pytest.raises(InfrastructureError, match="302"):
            publish(discussion, TEXT, wait=never)
        assert thief.asked == []
    for base in ("http://github.example", "ftp://127.0.0.1", "file:///etc", "", "https://"):
        with pytest.raises(ConfigError, match="no https address"):
            Api(base, {})
    assert TOKEN not in repr(discussion)


def test_nobody_there_is_unavailable_and_the_message_has_no_token() -> None:
    with LoopbackForge() as gone:
        base = gone.base
    with pytest.raises(Unavailable) as said:
        Api(base, {"Authorization": f"Bearer {TOKEN}"}).send("GET", "/")
    assert TOKEN not in str(said.value)


def test_a_token_that_is_none_is_not_shown(forge: LoopbackForge, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as said:
        github.pull_request({**forge.github(tmp_path), "GITHUB_TOKEN": "5e\nc"})
    assert "5e" not in str(said.value)
    assert github.pull_request({**forge.github(tmp_path), "GITHUB_TOKEN": f"{TOKEN}\n"}) is not None


def test_what_is_no_pull_or_merge_request_has_no_discussion(forge: LoopbackForge, tmp_path: Path) -> None:
    assert github.pull_request(forge.github(tmp_path, event={"ref": "refs/heads/main"})) is None
    assert gitlab.merge_request({**forge.gitlab(), "CI_MERGE_REQUEST_IID": ""}) is None
    assert gitlab.merge_request({**forge.gitlab(), "HARNESS_GITLAB_TOKEN": ""}) is None


@pytest.mark.parametrize(
    ("name", "value"), [("GITHUB_TOKEN", ""), ("GITHUB_REPOSITORY", "a/b/c?d"), ("GITHUB_EVENT_PATH", "/nowhere")]
)
def test_an_environment_that_github_does_not_set_is_named(
    forge: LoopbackForge, tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=name if name != "GITHUB_EVENT_PATH" else value):
        github.pull_request({**forge.github(tmp_path), name: value})


def test_no_line_of_a_note_is_a_quick_action(forge: LoopbackForge) -> None:
    request = gitlab.merge_request(forge.gitlab())
    assert request is not None
    hostile = f"{TEXT}````text\nsaid\n```\n/merge\n  /approve\n\t/close\na /b\n````\n"
    publish(request, hostile, wait=never)
    lines = forge.comments[0]["body"].splitlines()
    assert [line for line in lines if line.lstrip().startswith("/")] == []
    assert "a /b" in lines
    assert "\u200b/merge" in lines


def test_only_the_pull_requests_own_comments_are_asked_for(forge: LoopbackForge, tmp_path: Path) -> None:
    pull = github.pull_request(forge.github(tmp_path))
    assert pull is not None
    publish(pull, TEXT, wait=never)
    (_, listed, headers), (method, written, _) = forge.asked
    assert listed == f"/github/repos/team/project/issues/{NUMBER}/comments?per_page=100&page=1"
    assert (method, written) == ("POST", f"/github/repos/team/project/issues/{NUMBER}/comments")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert json.dumps(headers).count(TOKEN) == 1
