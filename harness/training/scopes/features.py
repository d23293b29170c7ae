"""Feature-based: a frozen model turns texts into vectors, and scikit-learn fits a classifier on these.

Nothing of the model is trained, so a few hundred rows and a CPU are enough. What is saved are the classifier's numbers
as safetensors and never a pickle; `subjects.classifier` computes from them what scikit-learn would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from harness import plugins
from harness.errors import ConfigError, DataError, PluginError
from harness.subjects import _classes, _features
from harness.subjects._features import Array, FittedClassifier
from harness.training.scopes import Head, Share, Traits
from harness.training.scopes._adapter import ScopeOptions
from harness.training.scopes._models import freeze, reason, refuse_encoder_decoder, refuse_quantised

_TRAITS = Traits(frozenset({"classes"}), merges=False, mixes=False, quantised=False, saves="classifier")
_FOLDS = 5


class Options(ScopeOptions):
    """Options of `features`."""

    classifier: _features.Classifier = Field("logistic_regression", description="svm is linear and calibrated")
    pooling: _features.Pooling = Field("mean", description="of the last hidden states; first is an encoder's [CLS]")
    c: float = Field(1.0, gt=0, description="logistic regression and svm: inverse of the regularisation")
    hidden: tuple[int, ...] = Field((64,), min_length=1, description="mlp: widths of its hidden layers")
    max_iterations: int = Field(1000, ge=1)
    max_length: int | None = Field(None, ge=1, description="tokens of a text (null: what the model reads)")
    batch_size: int = Field(16, ge=1)


class FeatureClassifier:
    """See `harness.training.scopes.Fitted`."""

    def __init__(self, backbone: Any, options: Options) -> None:
        """Keep a frozen backbone; nothing is fitted yet."""
        self.backbone = backbone
        self.classes: tuple[str, ...] = ()
        self.classifier: FittedClassifier | None = None
        self._options = options

    def fit(self, texts: Sequence[str], labels: Sequence[str], tokenizer: Any, seed: int = 0) -> None:
        """See `Fitted.fit`; what was fitted before is replaced."""
        folds = _folds(labels, self._options.classifier)
        try:
            pipeline = _estimator(self._options, folds, seed)
        except ImportError as error:
            raise PluginError(plugins.missing_extra("scope features", error)) from error
        pipeline.fit(self.vectors(texts, tokenizer), np.asarray(labels))
        self.classes = tuple(str(name) for name in pipeline.classes_)
        self.classifier = FittedClassifier(self._options.classifier, _numbers(pipeline))

    def vectors(self, texts: Sequence[str], tokenizer: Any) -> Array:
        """One vector a text, [texts, width].

        Raises:
            DataError: a text is empty or longer than the model reads; it is named.
        """
        rows = [_features.encode(tokenizer, text) for text in texts]
        most = self._options.max_length or _features.reads(self.backbone.config, tokenizer)
        for number, row in enumerate(rows, start=1):
            if not 0 < len(row) <= most:
                raise DataError(
                    f"row {number} has {len(row)} tokens, where 1 to {most} can be read; drop or shorten it"
                )
        found = np.empty((len(rows), 0))
        training = self.backbone.training
        self.backbone.eval()
        for batch in _features.batches(rows, self._options.batch_size):
            pooled = _features.vectors(self.backbone, [rows[i] for i in batch], self._options.pooling)
            found = found if found.shape[1] else np.empty((len(rows), pooled.shape[1]))
            found[batch] = pooled
        self.backbone.train(training)
        return found

    def log_probabilities(self, texts: Sequence[str], tokenizer: Any) -> Array:
        """Log-probabilities in nats, [texts, classes], of a fitted classifier."""
        return self._fitted().log_probabilities(self.vectors(texts, tokenizer))

    def share(self) -> Share:
        """See `Fitted.share`."""
        fitted = self._fitted().tensors.values()
        frozen = sum(p.numel() for p in self.backbone.parameters())
        numbers = sum(tensor.size for tensor in fitted)
        return Share(numbers, frozen + numbers, sum(tensor.nbytes for tensor in fitted))

    def save(self, folder: Path) -> None:
        """Write `classifier.json` and the numbers."""
        import torch

        tensors = {name: torch.from_numpy(np.ascontiguousarray(t)) for name, t in self._fitted().tensors.items()}
        _classes.save_head(folder, tensors)
        settings = {"classifier": self._options.classifier, "pooling": self._options.pooling}
        _classes.write(folder, "features", self.classes, settings)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        record = _classes.read(folder)
        self.classifier, _ = _features.fitted(record.settings, _classes.tensors(folder))
        self.classes = record.classes

    def _fitted(self) -> FittedClassifier:
        if self.classifier is None:
            raise ConfigError("scope features has fitted nothing yet")
        return self.classifier


@dataclass(frozen=True, slots=True)
class FeatureScope:
    """See `harness.training.scopes.Scope`; its model is `Fitted`."""

    options: Options
    name: str = "features"
    traits: Traits = _TRAITS
    quantization: Literal["none", "4bit"] = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def refusal(self, config: Any) -> str | None:
        """See `Scope.refusal`."""
        return reason(lambda: refuse_encoder_decoder(config))

    def apply(self, model: Any, head: Head) -> FeatureClassifier:
        """See `Scope.apply`; a head that the model has is not used."""
        if head not in self.traits.heads:
            raise ConfigError("scope features tells classes apart, and does nothing else; use another scope")
        refuse_encoder_decoder(model.config)
        refuse_quantised(model, self.name)  # the classifier subject would read other vectors from the whole base
        freeze(model)
        return FeatureClassifier(model.base_model, self.options)

    def resume(self, model: Any, folder: Path, head: Head) -> FeatureClassifier:
        """See `Scope.resume`; to fit once more starts from nothing, as there are no steps to go on with."""
        classifier = self.apply(model, head)
        classifier.load(folder)
        return classifier

    def save(self, model: FeatureClassifier, folder: Path) -> None:
        """See `Scope.save`."""
        model.save(folder)


def build(options: Options) -> FeatureScope:
    """The scope."""
    return FeatureScope(options)


def _folds(labels: Sequence[str], classifier: str) -> int:
    """How many parts the rows are cut into to calibrate an SVM, each with every class in it."""
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"all rows are of the class {next(iter(counts), 'none')!r}, so there is nothing to tell apart")
    rare, rows = min(counts.items(), key=lambda item: item[1])
    if classifier == "svm" and rows < 2:
        raise DataError(f"class {rare!r} has one row, and calibrating an svm takes two of each at least")
    return min(_FOLDS, rows)


def _estimator(options: Options, folds: int, seed: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    if options.classifier == "logistic_regression":
        last = LogisticRegression(C=options.c, max_iter=options.max_iterations)
    elif options.classifier == "mlp":
        last = MLPClassifier(options.hidden, max_iter=options.max_iterations, random_state=seed)
    else:
        machine = LinearSVC(C=options.c, max_iter=options.max_iterations, random_state=seed)
        last = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False)
    return make_pipeline(StandardScaler(), last)


def _numbers(pipeline: Any) -> dict[str, Array]:
    """What `FittedClassifier` computes from."""
    scaler, last = pipeline[0], pipeline[-1]
    found = {"mean": scaler.mean_, "scale": scaler.scale_}
    if hasattr(last, "coefs_"):
        for i, (weight, bias) in enumerate(zip(last.coefs_, last.intercepts_, strict=True)):
            found |= {f"weight.{i}": weight, f"bias.{i}": bias}
        return found
    if hasattr(last, "calibrated_classifiers_"):
        (calibrated,) = last.calibrated_classifiers_
        found["slope"] = np.array([c.a_ for c in calibrated.calibrators])
        found["offset"] = np.array([c.b_ for c in calibrated.calibrators])
        last = calibrated.estimator
    return {**found, "coef": last.coef_, "intercept": last.intercept_}
