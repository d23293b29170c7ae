"""A classifier on the hidden states of a frozen model: texts to vectors, and vectors to log-probabilities.

scikit-learn fits these classifiers (`harness.training.scopes.features`). Here its predictions are computed again from
the numbers alone, so that nothing has to be unpickled; a test holds them against `predict_proba`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from harness.errors import SubjectError

Array = npt.NDArray[np.float64]
Classifier = Literal["logistic_regression", "svm", "mlp"]
Pooling = Literal["mean", "first", "last"]


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A standardisation and a classifier; all `tensors` are float64.

    mean, scale: [features]. Logistic regression and SVM: coef [outputs, features], intercept [outputs], the SVM also
    slope and offset [outputs] of its calibration. MLP: weight.i [in, out], bias.i [out] for layer i. Two classes have
    one output, which speaks for the second.
    """

    kind: Classifier
    tensors: Mapping[str, Array]

    def log_probabilities(self, vectors: Array) -> Array:
        """Log-probabilities in nats, [texts, classes], of vectors [texts, features]."""
        x = (vectors - self.tensors["mean"]) / self.tensors["scale"]
        if self.kind == "mlp":
            return _shares(self._layers(x))
        margins = x @ self.tensors["coef"].T + self.tensors["intercept"]
        if self.kind == "logistic_regression":
            return _shares(margins)
        # Platt's sigmoid for each class against the others, then shares of their sum (scikit-learn's calibration).
        calibrated = -(self.tensors["slope"] * margins + self.tensors["offset"])
        return _shares(calibrated) if calibrated.shape[1] == 1 else _normalised(-np.logaddexp(0, -calibrated))

    def _layers(self, x: Array) -> Array:
        depth = sum(name.startswith("weight.") for name in self.tensors)
        for i in range(depth):
            x = x @ self.tensors[f"weight.{i}"] + self.tensors[f"bias.{i}"]
            x = np.maximum(x, 0) if i < depth - 1 else x
        return x


def fitted(settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[FittedClassifier, Pooling]:
    """The classifier of a `classifier.json` and its tensors.

    Raises:
        SubjectError: they are not of a classifier that is known here.
    """
    kind, pooling = settings.get("classifier"), settings.get("pooling")
    needed = {"mean", "scale", *({"weight.0", "bias.0"} if kind == "mlp" else {"coef", "intercept"})}
    needed |= {"slope", "offset"} if kind == "svm" else set()
    if kind not in get_args(Classifier) or pooling not in get_args(Pooling) or not needed <= set(tensors):
        raise SubjectError(f"a classifier {kind!r} on {pooling!r} with tensors {sorted(tensors)} is none that is known")
    arrays = {name: np.asarray(t, np.float64) for name, t in tensors.items()}
    return FittedClassifier(cast(Classifier, kind), arrays), cast(Pooling, pooling)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities of logits, along the last axis."""
    return _normalised(logits)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text as a classifier reads it, special tokens included."""
    return [int(i) for i in tokenizer(text)["input_ids"]]


def reads(config: Any, tokenizer: Any) -> int:
    """Most tokens of a text: what both the model and its tokenizer declare."""
    text = getattr(config, "text_config", None) or config
    said = [getattr(text, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
    # RoBERTa keeps two of its positions for itself and leaves it to its tokenizer to say so.
    declared = [int(n) for n in (*said, tokenizer.model_max_length) if n is not None and n < 1e9]
    return min(declared, default=512)


def batches(rows: Sequence[Sized], size: int) -> Iterator[list[int]]:
    """Indices of rows of one length, `size` at most at a time: without padding no answer depends on its batch."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == size or len(rows[i]) != len(rows[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def vectors(backbone: Any, rows: Sequence[Sequence[int]], pooling: Pooling) -> Array:
    """The backbone's last hidden states, one vector a row, [rows, width]; all rows are of one length."""
    import torch

    with torch.no_grad():
        ids = torch.tensor([list(row) for row in rows], device=backbone.device)
        hidden = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.double()
    pooled = {"mean": hidden.mean(1), "first": hidden[:, 0], "last": hidden[:, -1]}[pooling]
    found: Array = pooled.cpu().numpy()
    return found


def _shares(outputs: Array) -> Array:
    """Softmax; a single output is the log-odds of the second of two classes."""
    if outputs.shape[1] > 1:
        return _normalised(outputs)
    return np.concatenate([-np.logaddexp(0, outputs), -np.logaddexp(0, -outputs)], axis=1)


def _normalised(logs: Array) -> Array:
    highest = logs.max(axis=-1, keepdims=True)
    total: Array = highest + np.log(np.exp(logs - highest).sum(axis=-1, keepdims=True))
    return logs - total
