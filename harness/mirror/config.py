"""`mirror.yaml` as pydantic models: what is compared, how much of the traffic, and what it may cost"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from harness import assets
from harness.config import JudgesSection, Lines, Section, nearest_line, read_model
from harness.errors import ConfigError, at, nearest
from harness.judging.building import JudgeSection
from harness.judging.rubric import Rubric, load_rubric, require
from harness.records import Guard, MetricSpec, Sample, content_hash
from harness.served import Prices
from harness.suites import _replayed

SUITE = "live"
ANSWERED = "answered"
"""Metric: whether the endpoint answered at all where it could judge the request, rather than refusing it as wrong."""


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no URL such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError("a URL with a login in it would be written to logs; name its key with api_key_env")
    return value.rstrip("/")


Url = Annotated[str, AfterValidator(_url)]


class ChampionSection(Section):
    """The endpoint that users are answered by: bytes go through unchanged, so it speaks OpenAI's API itself."""

    api_base: Url = Field(description="URL of the server, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="variable with its key; otherwise the caller's own is passed on")
    keep_alive: float = Field(4.0, gt=0, description="seconds that an idle connection is kept; less than the server's")
    connect_timeout: float = Field(10.0, gt=0, description="seconds until a server that cannot be reached is a 502")


class Deployment(Section):
    """One server of the candidate."""

    model: str = Field(description="litellm's name of it; openai/NAME with an api_base is spoken to directly")
    api_base: Url | None = Field(None, description="URL of the server")
    api_key_env: str | None = Field(None, description="variable with the key; a caller's own never goes there")
    weight: int = Field(1, ge=1, description="share among several deployments")

    @property
    def direct(self) -> bool:
        """Whether it speaks OpenAI's API, so that nothing has to be translated."""
        return self.model.startswith("openai/") and self.api_base is not None


class CandidateSection(Section):
    """The model on trial, on one server or on several."""

    deployments: Annotated[tuple[Deployment, ...], Field(min_length=1)]
    timeout: float = Field(60.0, gt=0, description="seconds that one answer may take")
    prices: Prices | None = Field(None, description="instead of litellm's own table; needed for a budget in dollars")


class MirrorSection(Section):
    """Copies of requests go to the candidate; users never see what it answers."""

    share: float = Field(1.0, gt=0, le=1, description="share of the sessions whose calls are copied")
    concurrency: int = Field(16, ge=1, le=1024, description="copies under way at a time")
    queue_calls: int = Field(256, ge=1, description="copies that may wait or be under way; a newer one is dropped")
    queue_bytes: int = Field(64 * 2**20, ge=1024, description="bytes of them, requests and answers together")
    max_call_bytes: int = Field(2 * 2**20, ge=1024, description="a call with more bytes, both ways, is not copied")
    opt_in: bool = Field(False, description="copy only calls whose consent header says yes")


class SplitSection(Section):
    """A share of the sessions is answered by the candidate, the others by the champion."""

    weight: float = Field(gt=0, lt=1, description="share of the sessions that the candidate answers")
    queue_calls: int = Field(256, ge=1, description="answers that may wait to be scored")
    queue_bytes: int = Field(64 * 2**20, ge=1024, description="bytes of them")
    max_call_bytes: int = Field(2 * 2**20, ge=1024, description="a call with more bytes, both ways, is not scored")
    opt_in: bool = Field(False, description="score only calls whose consent header says yes")


class BudgetSection(Section):
    """What copies may cost in a day (UTC); None is no limit. What stopped at it is counted."""

    calls: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    dollars: float | None = Field(None, gt=0)


class BreakerSection(Section):
    """After `failures` in a row nothing is sent for `seconds`; then one call tries whether the candidate is back."""

    failures: int = Field(8, ge=1)
    seconds: float = Field(30.0, gt=0)


class SessionsSection(Section):
    """What makes calls one conversation. A conversation is the unit of sampling, splitting and of the statistics."""

    header: str = Field("x-session-id", description="header that holds its id; else the body's metadata.session_id, "
                                                    "else its first messages stand for it")  # fmt: skip
    most_calls: int = Field(8, ge=1, le=1000, description="calls of one session that are compared; then it is complete")
    most_sessions: int = Field(50_000, ge=1, description="sessions that are compared; then the evidence is complete")
    idle_seconds: float = Field(600.0, gt=0, description="a session without a call for so long is complete")
    most_seconds: float = Field(3600.0, gt=0, description="so is one that began so long ago")


class GuardSection(Section):
    """One metric and what it tolerates; what is left out comes from the policy."""

    metric: str
    margin: float | None = Field(None, gt=0, description="largest tolerated drop, in score points (δ)")
    required: bool = True
    veto: bool = False


class PolicySection(Section):
    """What has to be shown, and on how much of the traffic."""

    alpha: float = Field(0.05, gt=0, lt=0.5)
    margin: float = Field(0.02, gt=0)
    max_failures: float = Field(0.05, ge=0, lt=1, description="share of calls, and of sessions, that may fail")
    max_seconds: float = Field(60.0, gt=0, description="slower than this is no worse (bounds `seconds`)")
    max_output_tokens: int = Field(8192, ge=1, description="longer than this is no worse (bounds `output_tokens`)")
    min_coverage: float = Field(0.8, ge=0, le=1, description="share of eligible calls that must have been compared")
    max_gap: float = Field(0.1, gt=0, le=1, description="how far the coverage of one kind of call may lie below")
    tried: bool = Field(True, description="hold until this policy has passed with --aa, where there is no difference")
    look_seconds: float = Field(5.0, gt=0, description="seconds between two looks at the evidence")


class ReceiverSection(Section):
    """Where spans go besides: an OTLP/HTTP receiver. They are redacted before they leave."""

    endpoint: Url = Field(description="such as http://127.0.0.1:4318; /v1/traces is added")
    token_env: str | None = Field(None, description="environment variable with the tenant's token")


class LiveJudgeSection(Section):
    """A judge that reads a share of the compared calls, redacted; its metric has the name of its rubric."""

    rubric: str = Field(
        description="judges/<name>.yaml with judges/<name>.prompt.md; it may show prompt and output only"
    )
    by: JudgeSection = Field(description="who applies it: `kind` (default: served) and the options of that kind")
    judges: Path | None = Field(None, description="folder of the rubrics (default: judges/, found upwards)")
    share: float = Field(1.0, gt=0, le=1, description="share of the sessions that it reads")
    calls: int | None = Field(None, ge=1, description="calls that it reads in a day (UTC)")
    concurrency: int = Field(4, ge=1, le=64)
    standing: JudgesSection = JudgesSection()


_DEFAULT_GUARDS = (GuardSection(metric=ANSWERED), GuardSection(metric="complied"), GuardSection(metric="finished"))


class MirrorConfig(Section):
    """A whole mirror.yaml. Exactly one of `mirror` and `split`."""

    champion: ChampionSection
    candidate: CandidateSection
    mirror: MirrorSection | None = None
    split: SplitSection | None = None
    salt: str = Field("", description="of the hash that draws sessions; another one draws others")
    sessions: SessionsSection = SessionsSection()
    budget: BudgetSection = BudgetSection()
    breaker: BreakerSection = BreakerSection()
    guards: tuple[GuardSection, ...] = _DEFAULT_GUARDS
    policy: PolicySection = PolicySection()
    judge: LiveJudgeSection | None = None
    state: Path = Field(Path("mirror-state"), description="folder of counts and evidence; survives restarts")
    store: Path | None = Field(None, description="store of traces that spans of both sides go to")
    receiver: ReceiverSection | None = None
    token_file: Path | None = Field(None, description="tokens of tenants, made by `harness shadow token`")
    operators: tuple[str, ...] = Field(("operator",), description="tenants whose token opens the page and the switch")
    consent_header: str = Field("x-shadow-consent", description="header with which a caller says yes or no")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.mirror is None) == (self.split is None):
            raise ValueError("give exactly one of mirror and split")
        names = [guard.metric for guard in self.guards]
        known = (*metric_names(), *([self.judge.rubric] if self.judge is not None else []))
        for name in names:
            if name not in known:
                raise ValueError(f"guards: no metric {name!r}: {nearest(name, known)}")
        if self.judge is not None and self.split is not None:
            raise ValueError("judge: a split has no two answers to one call that it could read")
        if len(set(names)) < len(names):
            raise ValueError("guards: a metric is named twice")
        if not any(guard.required for guard in self.guards):
            raise ValueError("guards: none is required, so nothing could ever be promoted")
        if self.receiver is not None and self.token_file is not None:
            raise ValueError("receiver: it knows one tenant by its token, and token_file may name several; use store")
        if self.split is not None and not (
            len(self.candidate.deployments) == 1 and self.candidate.deployments[0].direct
        ):
            raise ValueError("split: users are answered by the candidate's own bytes, so it is one deployment "
                             "openai/NAME with an api_base; put litellm's proxy before any other")  # fmt: skip
        return self

    @property
    def copying(self) -> MirrorSection | SplitSection:
        """The section of the mode that is on."""
        chosen = self.mirror or self.split
        assert chosen is not None  # noqa: S101 - the validator has seen to it
        return chosen


Mode = Literal["mirror", "split"]


class Loaded(Section):
    """A configuration as it runs: `aa` compares the champion with itself, to try the policy."""

    config: MirrorConfig
    path: Path
    aa: bool = False

    @property
    def mode(self) -> Mode:
        """Whether traffic is copied or split."""
        return "mirror" if self.config.mirror is not None else "split"

    @property
    def folder(self) -> Path:
        """Where this comparison keeps its state; a trial of the policy keeps its own."""
        state = self.path.parent / self.config.state
        return state / "aa" if self.aa else state

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """What the candidate's side is: in a trial the champion's server itself, by its own connections."""
        if not self.aa:
            return self.config.candidate.deployments
        champion = self.config.champion
        return (Deployment(model="openai/", api_base=champion.api_base, api_key_env=champion.api_key_env),)

    def resolved(self, path: Path | None) -> Path | None:
        """A path of the file, which is relative to the file."""
        return None if path is None else self.path.parent / path

    def guards(self) -> list[Guard]:
        """The guards of the file, then every other metric as an advisory one."""
        policy = self.config.policy
        named = {guard.metric: guard for guard in self.config.guards}
        spans = {name: spec.span for name, spec in specs_of(self).items()}
        others = (GuardSection(metric=name, required=False) for name in spans if name not in named)
        return [
            Guard(
                SUITE, section.metric, alpha=policy.alpha, estimand="population", required=section.required,
                margin=section.margin if section.margin is not None else policy.margin * spans[section.metric],
                max_failures=policy.max_failures, veto=section.veto,
            )
            for section in (*named.values(), *others)
        ]  # fmt: skip

    def comparison_digest(self) -> str:
        """SHA-256 over all that makes two observations part of one comparison."""
        c = self.config
        return content_hash({
            "mode": self.mode, "aa": self.aa, "champion": c.champion.api_base, "salt": c.salt,
            "candidate": [[d.model, d.api_base] for d in self.deployments], "policy": self.policy_digest(),
        })  # fmt: skip

    def policy_digest(self) -> str:
        """SHA-256 over what decides: a trial of the policy is one of exactly this."""
        c = self.config
        policy = c.policy.model_dump(mode="json", exclude={"tried", "look_seconds"})
        return content_hash({
            "policy": policy, "guards": [g.model_dump(mode="json") for g in c.guards], "mode": self.mode,
            "sessions": c.sessions.model_dump(mode="json"),
            "judge": c.judge.model_dump(mode="json", exclude={"judges", "calls", "concurrency"}) if c.judge else None,
        })  # fmt: skip


def metric_specs(policy: PolicySection) -> dict[str, MetricSpec]:
    """Name → `MetricSpec` of everything that is measured on live answers."""
    known = _replayed.checks(policy.max_seconds, policy.max_output_tokens)
    live = {name: check.spec for name, check in known.items() if name not in ("recorded_calls", "liked")}
    return {ANSWERED: MetricSpec(ANSWERED), **live}


def specs_of(loaded: Loaded) -> dict[str, MetricSpec]:
    """The same with the judge's, where there is one."""
    rubric, specs = rubric_of(loaded), metric_specs(loaded.config.policy)
    if rubric is None:
        return specs
    bounds = (0.0, 1.0) if rubric.pairwise else rubric.bounds
    return {**specs, rubric.name: MetricSpec(rubric.name, bounds=bounds)}


def rubric_of(loaded: Loaded) -> Rubric | None:
    """The judge's rubric.

    Raises:
        ConfigError, DataError: there is none of that name, or it shows what a live call does not have.
    """
    section = loaded.config.judge
    if section is None:
        return None
    rubric = load_rubric(
        section.rubric, assets.find("judges", loaded.resolved(section.judges), start=loaded.path.parent)
    )
    require(rubric, [Sample("a live call", "its question")])
    return rubric


def metric_names() -> tuple[str, ...]:
    """Names of the metrics, in the order of reports."""
    return tuple(metric_specs(PolicySection()))


def load_mirror(path: Path, *, aa: bool = False) -> Loaded:
    """Read a mirror.yaml.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named), a wrong value, or an
            environment variable that should hold a key and does not.
    """
    config, lines = read_model(path, MirrorConfig, "champion, candidate, and mirror or split")
    loaded = Loaded(config=config, path=path.resolve(), aa=aa)
    _check_keys(loaded, lines)
    return loaded


def key_of(variable: str | None) -> str | None:
    """The key in an environment variable, None where none is named."""
    return None if variable is None else os.environ.get(variable, "").strip() or None


def _check_keys(loaded: Loaded, lines: Lines) -> None:
    config = loaded.config
    places: list[tuple[tuple[str | int, ...], str | None]] = [
        (("champion", "api_key_env"), config.champion.api_key_env),
        *((("candidate", "deployments", i, "api_key_env"), d.api_key_env)
          for i, d in enumerate(config.candidate.deployments)),
        (("receiver", "token_env"), config.receiver.token_env if config.receiver else None),
    ]  # fmt: skip
    for keys, variable in places:
        if variable is not None and key_of(variable) is None:
            where = at(loaded.path, nearest_line(lines, keys)) + ".".join(map(str, keys))
            raise ConfigError(f"{where}: the environment variable {variable} holds no key")


def json_schema() -> dict[str, Any]:
    """JSON schema of mirror.yaml, for editors."""
    return MirrorConfig.model_json_schema()
