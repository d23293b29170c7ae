"""The classifier subject: what it answers, what it refuses to answer, and what it is known by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import plugins
from harness.errors import ConfigError, DataError, SubjectError
from harness.records import Generate, LogLikelihood, Message, Output, Request, RollingLogLikelihood
from harness.subjects import SubjectContext, _classes, _features, classifier
from tests.tiny_classifiers import COLOURS, make_encoder, rows

CLASSIFIERS = ("logistic_regression", "svm", "mlp")


def scope(**options: Any) -> Any:
    chosen = plugins.options("training.scopes", "features", {"max_iterations": 300, **options}, where="scope")
    return plugins.load("training.scopes", "features").build(chosen)


def answers(subject: Any, requests: Sequence[Request]) -> list[Output]:
    pairs = [pair for batch in subject.answer(requests) for pair in batch]
    assert sorted(i for i, _ in pairs) == list(range(len(requests)))
    return [output for _, output in sorted(pairs, key=lambda p: p[0])]


# ---------------------------------------------------------------- fast: our numbers are scikit-learn's


@pytest.mark.slow
@pytest.mark.parametrize("classes", [COLOURS[:2], COLOURS])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_probabilities_are_those_of_scikit_learn(kind: str, classes: tuple[str, ...]) -> None:
    from harness.training.scopes import features

    random = np.random.default_rng(0)
    labels = [name for name in classes for _ in range(12)]
    x = random.normal(size=(len(labels), 7)) + np.array([[classes.index(name)] for name in labels]) * 0.4
    options = features.Options(classifier=kind, hidden=(5, 4), max_iterations=4000)
    pipeline = features._estimator(options, 3, 0).fit(x, np.array(labels))
    ours = _features.FittedClassifier(kind, features._numbers(pipeline))
    unseen = random.normal(size=(50, 7)) * 3
    assert pipeline.classes_.tolist() == sorted(classes)
    found = np.exp(ours.log_probabilities(unseen))
    np.testing.assert_allclose(found, pipeline.predict_proba(unseen), rtol=1e-9, atol=1e-15)
    far = ours.log_probabilities(unseen * 1e6)
    assert np.isfinite(far).all(), "far from all rows a class is unlikely, and its logarithm still a number"


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (["red"] * 4, "svm", "all rows are of the class 'red'"),
        ([], "mlp", "all rows are of the class 'none'"),
        (["red", "red", "blue"], "svm", "class 'blue' has one row"),
    ],
)
def test_rows_that_tell_nothing_apart_are_refused(labels: list[str], kind: str, message: str) -> None:
    from harness.training.scopes.features import _folds

    with pytest.raises(DataError, match=message):
        _folds(labels, kind)


def test_rows_of_one_length_go_together() -> None:
    lengths = [3, 1, 3, 3, 2, 1]
    found = list(_features.batches([[0] * n for n in lengths], 2))
    assert sorted(i for batch in found for i in batch) == list(range(6))
    assert all(len({lengths[i] for i in batch}) == 1 and len(batch) <= 2 for batch in found)
    assert list(_features.batches([], 2)) == []


def test_what_is_no_record_of_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"holds no classifier\.json"):
        _classes.read(tmp_path)
    for text in ("[]", "{", json.dumps({"format": 2, "kind": "head"}), json.dumps({"format": 1, "kind": "pickle"})):
        (tmp_path / "classifier.json").write_text(text)
        with pytest.raises(SubjectError, match="not the record of a classifier"):
            _classes.read(tmp_path)
    with pytest.raises(SubjectError, match="none that is known"):
        _features.fitted({"classifier": "svm", "pooling": "mean"}, {"mean": 0, "scale": 1, "coef": 0, "intercept": 0})


# ---------------------------------------------------------------- slow: with tiny models


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "bert")


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def fit(base: Path, folder: Path, **options: Any) -> Any:
    """A fitted classifier, and what it saved in `folder`."""
    from transformers import AutoModel

    chosen = scope(**options)
    model = chosen.apply(AutoModel.from_pretrained(base), "classes")
    model.fit(*rows(), tokenizer(base))
    chosen.save(model, folder)
    return model


def build(base: Path, head: Path | None, **options: Any) -> Any:
    chosen = {"model": str(base), "head": None if head is None else str(head), "device": "cpu", **options}
    return classifier.build(classifier.Options.model_validate(chosen), SubjectContext(base.parent))


@pytest.fixture(scope="module")
def subject(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("fitted")
    fit(base, folder)
    return build(base, folder)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_fitted_classifier_is_saved_without_a_pickle_and_answers_the_same(
    kind: str, pooling: str, base: Path, tmp_path: Path
) -> None:
    model = fit(base, tmp_path, classifier=kind, pooling=pooling, batch_size=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classifier.json", "head.safetensors"]
    texts, labels = rows()
    expected = model.log_probabilities(texts, tokenizer(base))
    assert np.mean([model.classes[i] for i in expected.argmax(1)] == np.array(labels)) > 0.6
    found = answers(build(base, tmp_path), [LogLikelihood(text, name) for text in texts for name in model.classes])
    np.testing.assert_allclose([o.logprob for o in found], expected.ravel(), atol=1e-5)


@pytest.mark.slow
def test_embeddings_of_a_decoder_are_the_mean_of_its_last_hidden_states(tiny: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = tiny.model("gpt2")
    chosen = scope()
    model = chosen.apply(AutoModelForCausalLM.from_pretrained(base), "classes")
    texts, labels = rows()
    model.fit(texts, labels, tokenizer(base))
    with torch.no_grad():
        ids = torch.tensor([tokenizer(base)(texts[3])["input_ids"]])
        hidden = AutoModelForCausalLM.from_pretrained(base).transformer(ids).last_hidden_state[0]
    np.testing.assert_allclose(model.vectors(texts, tokenizer(base))[3], hidden.mean(0).numpy(), atol=1e-5)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    chosen.save(model, tmp_path)
    assert answers(build(base, tmp_path), [Generate(text) for text in texts[:4]])[0].text in COLOURS


@pytest.mark.slow
def test_features_are_counted_resumed_and_need_no_head(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    from harness.training.scopes import Fitted, share_of

    model = fit(base, tmp_path)
    assert isinstance(model, Fitted)
    share = share_of(model)
    assert share.trainable == 32 + 32 + 3 * 32 + 3  # mean, scale, coefficients, intercepts
    assert share.bytes == 8 * share.trainable
    with_head = AutoModelForSequenceClassification.from_pretrained(base)
    again = scope().resume(with_head, tmp_path, "classes")
    text = ["one two red"]
    expected = model.log_probabilities(text, tokenizer(base))
    np.testing.assert_allclose(again.log_probabilities(text, tokenizer(base)), expected, atol=1e-6)
    fresh = scope().apply(AutoModel.from_pretrained(base), "classes")
    with pytest.raises(ConfigError, match="fitted nothing yet"):
        fresh.save(tmp_path)
    with pytest.raises(ConfigError, match="does nothing else"):
        scope().apply(AutoModel.from_pretrained(base), "reward")
    with pytest.raises(DataError, match=r"row 2 has \d+ tokens, where 1 to 64 can be read"):
        fresh.fit(["red", "red " * 80], ["red", "blue"], tokenizer(base))


@pytest.mark.slow
def test_a_class_has_a_likelihood_and_the_likeliest_is_generated(subject: Any) -> None:
    text = "one two red red"
    asked = [LogLikelihood(text, f" {name}") for name in COLOURS]
    *likelihoods, named, talked = answers(
        subject, [*asked, Generate(text, temperature=1.0), Generate((Message("user", text),))]
    )
    assert sum(np.exp(o.logprob) for o in likelihoods) == pytest.approx(1)
    best = max(range(3), key=lambda i: likelihoods[i].logprob)
    assert [o.is_greedy for o in likelihoods] == [i == best for i in range(3)]
    assert named.text == talked.text == COLOURS[best]
    assert answers(subject, [LogLikelihood(text, "red\n")])[0] == likelihoods[2], "white space does not count"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "failure"),
    [
        (LogLikelihood("one two", " purple"), "'purple' is none of the classes blue, green, red"),
        (LogLikelihood("one two", ""), "'' is none of the classes"),
        (RollingLogLikelihood("red"), "no likelihood of a text"),
        (Generate((Message("system", "Be brief."), Message("user", "red"))), "conversation of 2 messages"),
        (Generate("red " * 100), r"tokens, where 1 to 64 can be read"),
    ],
)
def test_anything_else_is_a_failure_and_never_a_score(request_: Request, failure: str, subject: Any) -> None:
    good = Generate("red")
    found = answers(subject, [good, request_, good])
    assert failure in (found[1].failure or "")
    assert found[1].text is None
    assert found[1].logprob is None
    assert found[0] == found[2]
    assert found[0].failure is None


@pytest.mark.slow
def test_a_long_text_may_be_cut_at_its_end(base: Path, subject: Any) -> None:
    cut = build(base, subject._head, truncate="right")
    long = "red " * 100
    assert answers(cut, [Generate(long)])[0].text in COLOURS
    kept = tokenizer(base).decode(tokenizer(base)(long)["input_ids"][1:64])
    assert answers(cut, [LogLikelihood(long, "red")]) == answers(subject, [LogLikelihood(kept, "red")])


@pytest.mark.slow
def test_no_answer_depends_on_its_batch(base: Path, subject: Any) -> None:
    asked: list[Request] = [LogLikelihood(text, "green") for text in rows()[0]]
    alone = build(base, subject._head, batch_size=1)
    for a, b in zip(answers(subject, asked), answers(alone, asked), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-6)


@pytest.mark.slow
def test_broken_numbers_are_failures(base: Path, tmp_path: Path) -> None:
    import torch

    fit(base, tmp_path)
    tensors = _classes.tensors(tmp_path)
    _classes.save_head(tmp_path, {**tensors, "coef": tensors["coef"] * torch.nan})
    for output in answers(build(base, tmp_path), [Generate("red"), LogLikelihood("red", "red")]):
        assert "broken" in (output.failure or "")


@pytest.mark.slow
def test_the_fingerprint_is_of_what_the_files_hold(base: Path, subject: Any, tmp_path: Path) -> None:
    copied = shutil.copytree(subject._head, tmp_path / "copy")
    elsewhere = shutil.copytree(base, tmp_path / "base")
    assert build(elsewhere, copied).fingerprint == subject.fingerprint
    fit(base, tmp_path / "other", c=0.1)
    others = [
        build(base, tmp_path / "other"),
        build(base, subject._head, max_length=32),
        build(base, subject._head, truncate="right"),
        build(base, subject._head, dtype="bfloat16"),
    ]
    record = json.loads((copied / "classifier.json").read_text())
    (copied / "classifier.json").write_text(json.dumps({**record, "classes": ["a", "b", "c"]}))
    others.append(build(base, copied))
    assert len({o.fingerprint for o in others} | {subject.fingerprint}) == 6
    assert json.dumps(subject.describe())


@pytest.mark.slow
def test_a_model_without_all_of_a_classifier_is_not_asked(base: Path, tiny: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    with pytest.raises(SubjectError, match="is BertForMaskedLM and no classifier; give its head"):
        build(base, None)
    whole = shutil.copytree(base, tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.save_pretrained(whole)
    assert answers(build(whole, None), [Generate("red")])[0].text in ("LABEL_0", "LABEL_1")
    state = load_file(whole / "model.safetensors")
    save_file({n: t for n, t in state.items() if n != "classifier.weight"}, whole / "model.safetensors")
    with pytest.raises(SubjectError, match=r"lack 1 tensors of a classifier: classifier\.weight"):
        build(whole, None)
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    with pytest.raises(SubjectError, match="several classes at once"):
        build(whole, None)


@pytest.mark.slow
def test_a_rewards_head_and_unusable_names_are_refused(base: Path, subject: Any, tmp_path: Path) -> None:
    _classes.write(tmp_path, "head", ())
    with pytest.raises(SubjectError, match="reward model's head"):
        build(base, tmp_path)
    copied = shutil.copytree(subject._head, tmp_path / "copy")
    record = json.loads((copied / "classifier.json").read_text())
    for classes, message in ((["a", "b", "b"], "different names"), (["a", "b", " c"], "white space")):
        (copied / "classifier.json").write_text(json.dumps({**record, "classes": classes}))
        with pytest.raises(SubjectError, match=message):
            build(base, copied)


@pytest.mark.slow
def test_the_base_that_a_head_was_trained_on_is_checked(base: Path, subject: Any, tiny: Any, tmp_path: Path) -> None:
    from harness.adapters import weights_hash

    copied = shutil.copytree(subject._head, tmp_path / "copy")
    (check,) = [c for c in build(base, copied).checks(subject) if c.name == "classifier-for-base"]
    assert check.passed
    for sha, passed in ((weights_hash(base), True), ("0" * 64, False)):
        (copied / "harness.json").write_text(json.dumps({"base_weights_sha256": sha}))
        checks = {c.name: c.passed for c in build(base, copied).checks(subject)}
        assert checks == {"classifier-for-base": passed, "same-tokenizer": True}
    subject_ = build(base, copied)
    subject_.close()
    with pytest.raises(SubjectError, match="closed"):
        list(subject_.answer([Generate("red")]))
    with pytest.raises(SubjectError, match="no template for 2 messages"):
        subject.render_chat([Message("user", "a"), Message("user", "b")])
    assert subject.render_chat([Message("user", "a")]) == "a"


@pytest.mark.slow
def test_a_golden_suite_scores_it(subject: Any) -> None:
    """As the suites ask: a likelihood for each choice, and text."""
    from harness.metrics import exact_match, multiple_choice
    from harness.records import Sample

    sample = Sample("s", "one two red red", targets=("red",), choices=COLOURS)
    outputs = answers(subject, [LogLikelihood(sample.prompt, f" {choice}") for choice in COLOURS])
    chosen = multiple_choice.build(multiple_choice.Options()).score(sample, outputs)
    text = exact_match.build(exact_match.Options()).score(sample, answers(subject, [Generate(sample.prompt)]))
    assert chosen == text
    assert chosen.state == "scored"
