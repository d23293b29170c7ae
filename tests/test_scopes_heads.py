"""Heads for classes and rewards: every scope that claims them trains, saves and loads them, made-up parts included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import AdapterError, ConfigError, SubjectError
from harness.records import Generate, LogLikelihood
from harness.subjects import SubjectContext, _classes, classifier
from harness.training.scopes import Head, Scope
from tests.tiny_classifiers import COLOURS, make_encoder

pytestmark = pytest.mark.slow

FAMILIES = ("bert", "distilbert", "roberta", "llama", "gpt2")
TEXTS = ("one two red", "green", "a longer text that says blue")
# These are refused, with the way out, as test_scopes shows.
_NO_TARGET = {("bitfit", "llama"), ("additive_bias", "gpt2"), ("ia3", "distilbert")}


def build(name: str) -> Scope:
    known = {"lora": {"rank": 4}, "bottleneck": {"size": 8}}
    chosen = plugins.options("training.scopes", name, known.get(name, {}), where="scope")
    scope: Scope = plugins.load("training.scopes", name).build(chosen)
    return scope


SCOPES = {name: build(name) for name in plugins.names("training.scopes")}
STEPPED = [n for n, s in SCOPES.items() if "classes" in s.traits.heads and n not in ("features", "qlora")]
PAIRS = [(name, family) for name in STEPPED for family in FAMILIES if (name, family) not in _NO_TARGET]


@pytest.fixture(scope="module")
def bases(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    encoders = {family: make_encoder(folder / family, family) for family in ("bert", "distilbert", "roberta")}
    return {**encoders, **{family: tiny.model(family) for family in ("llama", "gpt2")}}


def load(folder: Path, head: Head, seed: int) -> Any:
    """With a head of random values, as a trainer starts; another `seed` gives other ones."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    names = COLOURS if head == "classes" else ("reward",)
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    return AutoModelForSequenceClassification.from_pretrained(folder, **labels).eval()


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def ids(folder: Path, text: str) -> Any:
    import torch

    return torch.tensor([tokenizer(folder)(text)["input_ids"]])


def logits(model: Any, folder: Path) -> Any:
    """[texts, outputs], each text alone."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=ids(folder, text)).logits for text in TEXTS])


def steps(model: Any, folder: Path) -> None:
    import torch

    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for number in range(3):
        optimizer.zero_grad()
        found = model(input_ids=ids(folder, TEXTS[number])).logits
        (found[0, 0] - found[0, 1:].sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("head", ["classes", "reward"])
@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_later_process_has_the_same_head(
    name: str, family: str, head: Head, bases: dict[str, Path], tmp_path: Path
) -> None:
    import torch

    scope, base = SCOPES[name], bases[family]
    model = scope.apply(load(base, head, 1), head)
    before = logits(model, base)
    steps(model, base)
    after = logits(model, base)
    assert not torch.allclose(before, after, atol=1e-3)
    scope.save(model, tmp_path)
    fresh = load(tmp_path if scope.traits.saves == "checkpoint" else base, head, 2)
    resumed = scope.resume(fresh, tmp_path, head)
    # Where weights lie in memory can move the last bit of a product, so a whole model is held to its tensors.
    torch.testing.assert_close(logits(resumed, base), after, rtol=0, atol=1e-6 if name == "full" else 0)
    if name == "full":
        assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in model.state_dict().items())
    assert {n for n, p in resumed.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_the_classifier_subject_answers_as_it_was_trained(
    name: str, family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    scope, base = SCOPES[name], bases[family]
    model = scope.apply(load(base, "classes", 1), "classes")
    steps(model, base)
    expected = logits(model, base).double().log_softmax(-1)
    scope.save(model, tmp_path / "out")
    given = {"model": str(base), "head": str(tmp_path / "out")}
    if scope.traits.saves == "checkpoint":
        given = {"model": str(tmp_path / "out"), "tokenizer": str(base)}
    options = classifier.Options.model_validate({**given, "device": "cpu"})
    subject = classifier.build(options, SubjectContext(tmp_path))
    asked = [LogLikelihood(text, f" {colour}") for text in TEXTS for colour in COLOURS]
    found = dict(pair for batch in subject.answer(asked) for pair in batch)
    assert [found[i].logprob for i in range(len(asked))] == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    named = dict(pair for batch in subject.answer([Generate(text) for text in TEXTS]) for pair in batch)
    assert [named[i].text for i in range(3)] == [COLOURS[i] for i in expected.argmax(-1).tolist()]


@pytest.mark.parametrize("family", FAMILIES)
def test_head_only_trains_the_head_and_all_that_was_made_up(family: str, bases: dict[str, Path]) -> None:
    model = SCOPES["head"].apply(load(bases[family], "classes", 1), "classes")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {
        "bert": {"bert.pooler.dense", "classifier"},
        "distilbert": {"pre_classifier", "classifier"},
        "roberta": {"classifier.dense", "classifier.out_proj"},
        "llama": {"score"},
        "gpt2": {"score"},
    }
    assert {n.rpartition(".")[0] for n in trained} == expected[family]


def test_head_only_refuses_a_model_without_a_head_and_a_head_for_tokens(bases: dict[str, Path]) -> None:
    from transformers import AutoModel

    with pytest.raises(ConfigError, match="BertModel has no head"):
        SCOPES["head"].apply(AutoModel.from_pretrained(bases["bert"]), "classes")
    with pytest.raises(ConfigError, match="for next tokens, use another scope"):
        SCOPES["head"].apply(load(bases["bert"], "classes", 1), "language")


def test_a_head_of_another_base_or_without_all_of_its_tensors_is_refused(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    model = SCOPES["head"].apply(load(bases["bert"], "classes", 1), "classes")
    SCOPES["head"].save(model, tmp_path)
    with pytest.raises(SubjectError, match="this base has nothing of that name"):
        SCOPES["head"].resume(load(bases["llama"], "classes", 1), tmp_path, "classes")
    state = _classes.tensors(tmp_path)
    _classes.save_head(tmp_path, {n: t for n, t in state.items() if n != "classifier.bias"})
    with pytest.raises(SubjectError, match=r"lacks classifier\.bias"):
        SCOPES["head"].resume(load(bases["bert"], "classes", 1), tmp_path, "classes")


def test_an_adapter_without_its_head_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    SCOPES["lora"].save(SCOPES["lora"].apply(load(bases["bert"], "classes", 1), "classes"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "classifier" not in n}, path)
    options = classifier.Options(model=str(bases["bert"]), head=str(tmp_path), device="cpu")
    with pytest.raises(AdapterError, match=r"cannot be put on|does not hold what"):
        classifier.build(options, SubjectContext(tmp_path))
