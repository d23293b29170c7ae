"""What is personal or secret is found in its usual forms, what looks like it is not, and no text takes for ever."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.redaction import measure
from harness import redaction
from harness.errors import PluginError
from harness.redaction import Span, _patterns, find, names_secret, presidio, redact, suspicious
from tests.fuzzing import examples

AWS = "AKIA" + "IOSFODNN7EXAMPLE"  # put together, so that scanners of this repository stay calm
GITHUB = "ghp_" + "aB3" * 12
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
OPENAI = "sk-proj-" + "Ab1" * 12
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow==\n" + "-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "jane.doe+x@mail.example.co.uk"),
        ("email", "jürgen@müller.example.de"),
        ("phone", "+49 (0)30 1234567"),
        ("phone", "+1-212-555-0123"),
        ("phone", "(212) 555-0123"),
        ("phone", "0171 1234567"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "3782-822463-10005"),
        ("credit_card", "5555555555554444"),
        ("ip", "203.0.113.7"),
        ("ip", "2001:db8::ff00:42:8329"),
        ("ip", "fe80::1"),
        ("ip", "::ffff:192.0.2.128"),
        ("ssn", "123-45-6789"),
        ("aws_key", AWS),
        ("github_token", GITHUB),
        ("slack_token", SLACK),
        ("api_key", OPENAI),
        ("api_key", "hf_" + "aB3" * 11),
        ("jwt", JWT),
        ("private_key", KEY),
    ],
)
def test_what_is_found_is_replaced_whole(kind: str, value: str) -> None:
    for text in (value, f"Here: {value}, and so on.", f"({value})", f"{value}."):
        assert redact(text) == (text.replace(value, f"<{kind.upper()}>"), Counter({kind: 1}))


@pytest.mark.parametrize(
    "text",
    [
        "password = 'xK9$mQ2z'",
        "API_KEY: a8f5f167f44f4964e6c998dee827110c",
        "db_password=hunter2hunter3",
        '{"token": "q8Zr4TnW1pL0"}',
        "secret := f3Gh7jK2",
    ],
)
def test_a_random_looking_value_of_a_secret_is_replaced_and_its_name_stays(text: str) -> None:
    changed, counts = redact(text)
    assert counts == {"secret": 1}
    assert changed.startswith(text[:5])
    assert "<SECRET>" in changed


@pytest.mark.parametrize(
    "text",
    [
        "password: required, token = os.environ['TOKEN'], max_tokens=1024, secret = correcthorse",
        "DE89370400440532013001 has a wrong checksum, and XX82WEST12345698765432 no country",
        "4111 1111 1111 1112 fails Luhn, 1234567812345670 has no issuer",
        "127.0.0.1, 0.0.0.0, 255.255.255.0, 999.1.1.1, 1.2.3, 1.2.3.4.5",
        "std::vector, abc::def, 12:30:45, a::b, ::",
        "000-12-3456, 123-00-4567, 2024-11-05",
        "@user, a@b, jane@localhost, 50 % @ 3",
        "In 1984 there were 12 345 678 people; see pages 100-200 and 3.14159265358979",
        "the risk-averse task-force skates at sk-learn",
        "eyJust a word",
    ],
)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert redact(text) == (text, Counter())


def test_a_surer_kind_outranks_a_vaguer_one() -> None:
    text = f"token={GITHUB} and password={AWS}"
    assert redact(text)[0] == "token=<GITHUB_TOKEN> and password=<AWS_KEY>"


def test_finds_next_to_each_other_and_many_of_them_are_counted() -> None:
    text = "a@x.org;b@x.org b@x.org +49 30 1234567\n1 2 3 4111 1111 1111 1111 4 5"
    assert redact(text) == (
        "<EMAIL>;<EMAIL> <EMAIL> <PHONE>\n1 2 3 <CREDIT_CARD> 4 5",
        {"email": 3, "phone": 1, "credit_card": 1},
    )


def test_a_key_that_is_cut_off_is_replaced_as_far_as_it_goes() -> None:
    text = KEY[: KEY.index("Proc")] + "MIIEow\n"
    assert redact(text + "(cut)")[0] == "<PRIVATE_KEY>(cut)"


PIECES = st.sampled_from(
    ["a@b.org", "@", ".", "4111 1111 1111 1111", "4111111111111111", "1.2.3.4", ":", "::", "+49 30 1234567", "-", " ",
     "DE89370400440532013000", "123-45-6789", AWS, GITHUB, "password=", "Ab1Cd2Ef3", "\n", "x", "0", "fe80::1", "/",
     "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "<EMAIL>", JWT[:30], "(", "é"]
)  # fmt: skip


@settings(max_examples=examples(100), deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join)))
@example("1.2.3.41.2.3.4")
@example(GITHUB + GITHUB)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, counts = redact(text)
    assert redact(once) == (once, Counter())
    assert (once == text) == (not counts)


@settings(max_examples=examples(70), deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_finds_are_ordered_and_do_not_overlap(text: str) -> None:
    spans = find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert all(0 <= s.start < s.end <= len(text) for s in spans)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["a", "1", " ", "a.", "1 ", "1-", ":", "a:", "a@", "@", "a@b.", "A", "DE89", "password=", "password=a1", "eyJ",
     "eyJabcdefgh.", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nabc-", "-", "+1", "0 ", "(2", "AKIA",
     "ghp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "sk-", "a@b.org ", "1.", "é", "4111 ", "xoxb-1", "::1 ", "\ud83d"]
)  # fmt: skip
def test_a_quarter_of_a_megabyte_of_anything_comes_to_an_end(piece: str) -> None:
    redact((piece * (2**18 // len(piece) + 1))[: 2**18])


# ---------------------------------------------------------------- Presidio


def test_without_presidio_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(PluginError, match=r"presidio: true needs presidio_analyzer, .*\[presidio\]"):
        presidio.finder()


def fake(engine: type) -> ModuleType:
    module = ModuleType("presidio_analyzer")
    vars(module)["AnalyzerEngine"] = engine
    return module


def test_what_presidio_is_sure_of_counts_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        def analyze(self, *, text: str, language: str) -> list[SimpleNamespace]:
            assert language == "en"
            start = text.index("Jane")
            return [
                SimpleNamespace(entity_type="PERSON", start=start, end=start + 4, score=0.85),
                SimpleNamespace(entity_type="DATE_TIME", start=0, end=2, score=0.2),
                SimpleNamespace(entity_type="URL", start=text.index("x.org"), end=text.index("x.org") + 5, score=0.9),
            ]

    monkeypatch.setitem(sys.modules, "presidio_analyzer", fake(Engine))
    finder = presidio.finder()
    assert next(iter(finder("Jane x.org"))) == Span(0, 4, "person")
    assert redact("Ask Jane, j@x.org", [finder]) == ("Ask <PERSON>, <EMAIL>", {"person": 1, "email": 1})


def test_presidio_without_its_language_model_is_an_error_and_not_the_end_of_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        def __init__(self) -> None:
            raise SystemExit(1)

    monkeypatch.setitem(sys.modules, "presidio_analyzer", fake(Engine))
    with pytest.raises(PluginError, match="Presidio does not start"):
        presidio.finder()


# ---------------------------------------------------------------- where patterns are tried


EVERYTHING = [
    "a@b.org", "@", ".", ":", "::", "-", " ", "\n", "\\n", '\\"', "x", "0", "/", "é", "İ", "word ", "1.2.3.4",
    "fe80::1", "4111 1111 1111 1111", "4111111111111111", "+49 30 1234567", "(212) 555-0123", "(030) 901820",
    "06 12 34 56 78", "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    "123-45-6789",
    AWS, GITHUB, SLACK, OPENAI, JWT, "password=", "passphrase : ", "Ab1Cd2Ef3", "Bearer ", "Bearer\\n",
    "Authorization: Basic ", "dXNlcjpwYXNzd29yZA==", "postgres://u:", "AccountKey=" + "a1B+" * 21 + "ab==", "?sig=",
    "hooks.slack" + ".com/services/T12345678/B1234567890/" + "aB3" * 8, "abc8Q~" + "aB3" * 11, "SG." + "a" * 22 + ".",
]  # fmt: skip


def everywhere(text: str) -> list[Span]:
    """What `find` finds when every pattern is tried at every character."""
    taken = redaction._Taken(len(text))
    for detector in _patterns.DETECTORS:
        for match in detector.pattern.finditer(text):
            where = detector.accept(match)
            if where is not None:
                taken.add(Span(*where, detector.kind))
    return sorted(taken.spans)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.sampled_from(EVERYTHING), max_size=8).map("".join))
def test_looking_only_where_something_may_be_finds_the_same(text: str) -> None:
    assert find(text) == everywhere(text)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(EVERYTHING), max_size=6).map("".join), min_size=40, max_size=80))
def test_a_text_with_a_find_is_always_suspicious(texts: list[str]) -> None:
    chosen = set(suspicious(texts))
    assert [text for i, text in enumerate(texts) if find(text) and i not in chosen] == []


def test_half_a_surrogate_pair_makes_everything_suspicious() -> None:
    assert suspicious(["clean", "\ud83d"]) == [0, 1]


def test_a_field_says_that_its_value_is_a_secret() -> None:
    assert names_secret("db_password", "hunter2hunter3")
    assert not names_secret("db_password", "required")
    assert not names_secret("max_tokens", "10240000")
    assert not names_secret("name", "hunter2hunter3")


def test_what_watch_raises_ends_the_search() -> None:
    def watch() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        find("a@b.org", watch=watch)


def test_nearly_every_labelled_value_is_found_and_nearly_nothing_else() -> None:
    found = measure()
    assert sum(found.labelled.values()) >= 300
    assert found.negatives >= 150
    assert found.recall >= 0.99, found.missed
    assert found.precision >= 0.99, found.wrong
    assert all(found.found[kind] >= 0.9 * n for kind, n in found.labelled.items()), found.missed
