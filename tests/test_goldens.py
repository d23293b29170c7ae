"""Reading golden sets: cards, rows and names, and one clear error for each way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness import goldens
from harness.errors import ConfigError, DataError, UsageError
from harness.goldens import names, rows
from harness.records import Message
from tests.golden_example import CARD, frozen, write

# ---------------------------------------------------------------- what is read


def test_rows_become_samples(tmp_path: Path) -> None:
    frozen(tmp_path)
    golden = goldens.load(tmp_path, "sums@v1")
    a, b, c, d = golden.samples
    assert (a.prompt, a.targets, a.cluster, a.tags) == ("1 + 1 =", ("2",), "", ())
    assert (b.targets, b.cluster, b.tags, b.data) == (("4", "four"), "sums", ("even",), {"from": {"page": 3}})
    assert c.messages == (Message("system", "Be brief."), Message("user", "Hi!"))
    assert c.prompt == "Be brief.\n\nHi!"
    assert (d.choices, d.targets) == (("x", "y", "z"), ("y",))
    assert [use.id for use in golden.card.metrics] == ["exact_match", "contains"]
    assert golden.card.metrics[1].options == {"mode": "all"}
    assert golden.reference == "sums@v1"


@pytest.mark.parametrize(
    ("target", "targets"),
    [
        ("x", ("x",)),
        (3, ("3",)),
        (2.5, ("2.5",)),
        ({"b": 1, "a": "é"}, ('{"a": "é", "b": 1}',)),
        (["x", 1], ("x", "1")),
    ],
)
def test_targets_of_every_kind(tmp_path: Path, target: Any, targets: tuple[str, ...]) -> None:
    folder = write(tmp_path, [{"id": 7, "prompt": "?", "target": target}])
    card = goldens.load_card(folder)
    (sample,) = goldens.read_samples(folder / "samples.jsonl", card)
    assert (sample.id, sample.targets) == ("7", targets)


def test_a_cluster_can_come_from_any_field(tmp_path: Path) -> None:
    folder = write(
        tmp_path, [{"id": "a", "prompt": "?", "user": 4}, {"id": "b", "prompt": "?", "user": "x"}], cluster_key="user"
    )
    samples = goldens.read_samples(folder / "samples.jsonl", goldens.load_card(folder))
    assert [s.cluster for s in samples] == ["4", "x"]


@pytest.mark.parametrize("end", [b"\r\n", b"\n\n", b"\n", b""])
def test_line_ends_of_every_kind_are_fine(tmp_path: Path, end: bytes) -> None:
    folder = write(tmp_path, b'{"id": "a", "prompt": "x\xe2\x80\xa8y"}\r\n{"id": "b", "prompt": "y"}' + end)
    samples = goldens.read_samples(folder / "samples.jsonl", goldens.load_card(folder))
    assert [s.prompt for s in samples] == ["x\u2028y", "y"]


ONE = {"id": "a", "prompt": "?"}
BAD_ROWS: list[tuple[Any, str]] = [
    ([], "the set is empty"),
    (b"\n \n", "the set is empty"),
    (b"{", r":1: not valid JSON"),
    (b'{"id": "a", "prompt": "x"}\nnonsense\n', r"jsonl:2: not valid JSON"),
    (b"[1]", "expected a JSON object, found list"),
    (b'{"id": "a", "prompt": "x", "y": NaN}', "NaN is not a JSON number"),
    (b'{"id": "a", "prompt": "x", "y": -Infinity}', "-Infinity is not a JSON number"),
    (b'{"id": "a", "id": "b", "prompt": "x"}', "key 'id' is given twice"),
    (b'{"id": "a", "prompt": "x", "y": ' + b"[" * 100_000, "not valid JSON"),
    (b'{"id": "a", "prompt": "x", "y": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    (b'\xef\xbb\xbf{"id": "a", "prompt": "x"}', r":1: starts with a byte order mark"),
    (b'{"id": "a", "prompt": "x"}\n{"id": "\xff"}', r":2: not UTF-8"),
    (b'{"id": "a", "prompt": "\\ud800"}', "surrogate"),
    (b'{"id": "a", "prompt": "' + b"x" * (rows.MAX_LINE_BYTES + 1) + b'"}', r":1: line longer than 8 MiB"),
    ([ONE, {"id": "b", "prompt": "!"}, ONE], r":3: id 'a' was used on line 1 already"),
    ([{"id": 1, "prompt": "?"}, {"id": "1", "prompt": "?"}], "used on line 1"),
    ([{"prompt": "?"}], "id is missing"),
    ([{"id": True, "prompt": "?"}], "id must be a string"),
    ([{"id": 1.5, "prompt": "?"}], "id must be a string"),
    ([{"id": "", "prompt": "?"}], "is empty"),
    ([{"id": "a\nb", "prompt": "?"}], "cannot be printed"),
    ([{"id": "a"}], "sample 'a': neither prompt nor messages"),
    ([{"id": "a", "prompt": " "}], "prompt must be a string"),
    ([{"id": "a", "prompt": 3}], "prompt must be a string"),
    ([{"id": "a", "prompt": "?", "messages": []}], "prompt or messages, not both"),
    ([{"id": "a", "messages": []}], "at least one message"),
    ([{"id": "a", "messages": [{"role": "user"}]}], r"messages\[0\] must hold role and content"),
    ([{"id": "a", "messages": [{"role": "usr", "content": "x"}]}], "did you mean 'user'"),
    ([{"id": "a", "messages": [{"role": "user", "content": ""}]}], "content must be a string"),
    ([{**ONE, "target": True}], "target must be a string"),
    ([{**ONE, "target": [None]}], "target must be a string"),
    ([{**ONE, "target": []}], "empty list"),
    ([{**ONE, "choices": "ab"}], "choices must be a list"),
    ([{**ONE, "choices": ["a"]}], "at least two"),
    ([{**ONE, "choices": ["a", "a"]}], "all different"),
    ([{**ONE, "choices": ["a", ""]}], "strings that are not empty"),
    ([{**ONE, "choices": ["a", "b"], "target": 2}], "target 2 is not the index of one of the 2 choices"),
    ([{**ONE, "choices": ["a", "b"], "target": -1}], "is not the index"),
    ([{**ONE, "choices": ["a", "b"], "target": True}], "index or the text"),
    ([{**ONE, "choices": ["apple", "b"], "target": "aple"}], "did you mean 'apple'"),
    ([{**ONE, "tags": "even"}], "tags must be a list"),
    ([{**ONE, "tags": [1]}], "tags must be a list"),
    ([{**ONE, "tags": ["evn"]}], "tag 'evn' is not explained in the card's tags: did you mean 'even'"),
    ([{**ONE, "cluster": 1.5}], "cluster must be a string"),
]


@pytest.mark.parametrize(("content", "says"), BAD_ROWS, ids=[says for _, says in BAD_ROWS])
def test_each_way_in_which_a_row_can_be_wrong_is_one_clear_error(tmp_path: Path, content: Any, says: str) -> None:
    folder = write(tmp_path, content)
    with pytest.raises(DataError, match=says) as caught:
        goldens.freeze(tmp_path, "sums", "v1")
    assert str(caught.value).startswith(str(folder / "samples.jsonl"))
    assert not (tmp_path / "LOCK.yaml").exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ONE}, "which is missing"),
        ({**ONE, "user": ""}, "is empty"),
        ({**ONE, "user": "x", "cluster": "y"}, "as well"),
    ],
)
def test_a_cluster_key_must_be_there_and_alone(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    write(tmp_path, [row], cluster_key="user")
    with pytest.raises(DataError, match=says):
        goldens.freeze(tmp_path, "sums", "v1")


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda card: card.pop(key)


BAD_CARDS: list[tuple[Any, str]] = [
    ({"licens": "x"}, r"card.yaml:\d+: unknown key 'licens': did you mean 'licence'"),
    ({"generation": {"max_token": 3}}, "did you mean 'max_tokens'"),
    ({"generation": {"max_tokens": 0}}, "max_tokens"),
    ({"generation": {"max_tokens": True}}, "max_tokens"),
    ({"generation": {"until": [""]}}, "empty string would end"),
    ({"generation": {"temperature": float("nan")}}, "temperature"),
    ({"metrics": None}, "metrics"),
    ({"metrics": [3]}, "write a metric as its id"),
    ({"metrics": [{"a": {}, "b": {}}]}, "write a metric as its id"),
    ({"metrics": ["exact_mach"]}, "did you mean 'exact_match'"),
    ({"metrics": [{"exact_match": {"stric": True}}]}, "did you mean 'strict'"),
    ({"metrics": [{"regex": {}}]}, "'pattern' is missing"),
    ({"metrics": [{"hf_evaluate": {"metric": "a", "result_key": "b"}}]}, "the user must name"),
    ({"metrics": ["multiple_choice"]}, "needs choices, and sample 'a' has none"),
    ({"description": ""}, "description"),
    ({"tags": ["even"]}, "tags"),
]


@pytest.mark.parametrize(("change", "says"), BAD_CARDS, ids=[says for _, says in BAD_CARDS])
def test_each_way_in_which_a_card_can_be_wrong_is_one_clear_error(tmp_path: Path, change: Any, says: str) -> None:
    write(tmp_path, **change)
    with pytest.raises(UsageError, match=says) as caught:
        goldens.freeze(tmp_path, "sums", "v1")
    assert "card.yaml" in str(caught.value) or "metrics plugin" in str(caught.value)


@pytest.mark.parametrize("key", ["licence", "source", "metrics", "description"])
def test_a_card_says_everything_it_must(tmp_path: Path, key: str) -> None:
    folder = write(tmp_path)
    card = {k: v for k, v in CARD.items() if k != key}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ConfigError, match=f"key '{key}' is missing"):
        goldens.freeze(tmp_path, "sums", "v1")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [("- a", ConfigError, "expected a mapping"), ("a: [", ConfigError, "not valid YAML"),
     ("", ConfigError, "expected a mapping"), ("a: 1\na: 2", ConfigError, "given twice"),
     ("!!python/object/apply:os.system [id]", ConfigError, "YAML"),
     (yaml.safe_dump({**CARD, "name": "other"}), DataError, "the card says other@v1, its folder sums@v1"),
     (yaml.safe_dump({**CARD, "version": 1.0}), ConfigError, "put the version in quotes")],
)  # fmt: skip
def test_a_card_is_yaml_that_names_its_own_folder(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    folder = write(tmp_path)
    (folder / "card.yaml").write_text(text)
    with pytest.raises(error, match=says):
        goldens.freeze(tmp_path, "sums", "v1")


@pytest.mark.parametrize("name", ["samples.jsonl", "card.yaml"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        goldens.freeze(tmp_path, "sums", "v1")


def test_a_whole_number_is_a_version(tmp_path: Path) -> None:
    write(tmp_path, version=1)
    goldens.freeze(tmp_path, "sums", "1")
    assert goldens.load(tmp_path, "sums").version == "1"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "", "/etc", ".hidden", "A", "a b", "a\n", "a" * 101, "é", "a\\b", "-a"]
)
def test_a_name_cannot_lead_anywhere_else(tmp_path: Path, name: str) -> None:
    for act in (
        lambda: goldens.freeze(tmp_path, name, "v1"), lambda: goldens.load(tmp_path, f"{name}@v1"),
        lambda: goldens.new_version(tmp_path, name, "v1"), lambda: goldens.verify(tmp_path, [name]),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="is not a golden set's name"):
            act()


@pytest.mark.parametrize("version", ["..", "../v1", "v1/x", "", ".v1", "v 1"])
def test_a_version_cannot_either(tmp_path: Path, version: str) -> None:
    write(tmp_path)
    for act in (lambda: goldens.freeze(tmp_path, "sums", version), lambda: goldens.load(tmp_path, f"sums@{version}")):
        with pytest.raises(ConfigError, match="is not a version"):
            act()


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True))
def test_a_good_name_is_always_one_folder(name: str) -> None:
    assert (Path("/root") / names.check_name(name)).resolve().parent == Path("/root")


@pytest.mark.parametrize(("version", "following"), [("1", "2"), ("v9", "v10"), ("1.09", "1.10"), ("v1-rc", "v2-rc")])
def test_versions_count_up_and_are_in_order(version: str, following: str) -> None:
    assert names.successor(version) == following
    assert names.in_order(version) < names.in_order(following)


def test_a_version_without_a_number_has_no_successor() -> None:
    with pytest.raises(ConfigError, match="no number"):
        names.successor("final")


def test_versions_are_ordered_as_numbers() -> None:
    assert sorted(["v10", "v2", "v1", "1", "v1.5"], key=names.in_order) == ["v1", "v1.5", "v2", "v10", "1"]


def test_a_wrong_set_or_version_is_answered_with_the_nearest(tmp_path: Path) -> None:
    frozen(tmp_path)
    with pytest.raises(DataError, match="did you mean 'sums'"):
        goldens.load(tmp_path, "sum")
    with pytest.raises(DataError, match="did you mean 'sums@v1'"):
        goldens.load(tmp_path, "sums@v2")
    with pytest.raises(DataError, match="no such version; known: v1"):
        goldens.freeze(tmp_path, "sums", "v3")
    with pytest.raises(DataError, match="did you mean 'sums'"):
        goldens.freeze(tmp_path, "sumz", "v1")
