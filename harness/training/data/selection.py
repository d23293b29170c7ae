"""From clean rows to the two sides: the mixture of the sources, the validation split, and the replay."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import DataError
from harness.training.data import mixing, rows, splitting
from harness.training.data.report import DataReport
from harness.training.data.rows import Item
from harness.training.recipe import DataSection


class Selection:
    """Which rows are trained on and which validate. Rows are numbers: places in `items`."""

    def __init__(self, items: list[Item], clusters: list[int], section: DataSection, report: DataReport) -> None:
        self._items, self._clusters, self._section = items, clusters, section
        self._seed, self._report = report.seed, report
        self._by_source: list[list[int]] = [[] for _ in report.sources]
        for index, item in enumerate(items):
            self._by_source[item.source].append(index)

    def sides(self) -> tuple[list[Item], list[Item]]:
        """Training and validation rows."""
        drawn = self._mixture()
        parts = splitting.split(drawn, self._clusters.__getitem__, self._digest, self._section.validation, self._seed)
        replay = self._replay(len(parts.train), {self._clusters[i] for i in parts.validation})
        train = [*parts.train, *replay.rows]
        if len({self._items[i].source for i in train}) > 1:
            train = self._shuffled(train)
        self._count(train, parts, replay)
        return [self._items[i] for i in train], [self._items[i] for i in parts.validation]

    def _digest(self, index: int) -> bytes:
        return rows.digest(self._items[index].row)

    def _mixture(self) -> list[int]:
        count = len(self._section.train)
        if self._section.mixture == "as-is":
            return [i for source in self._by_source[:count] for i in source]
        for source, indexes in zip(self._report.sources[:count], self._by_source, strict=False):
            if not indexes:
                text = f"{source.name}: no row of it is left, and a weighted mixture needs rows of every source"
                raise DataError(f"{text}:\n{self._report.text()}")
        parts = mixing.weighted([len(r) for r in self._by_source[:count]], [s.weight for s in self._section.train])
        drawn = zip(self._ordered(range(count)), parts, strict=True)
        return sorted(i for pool, part in drawn for i in pool[:part])

    def _ordered(self, sources: Sequence[int]) -> list[list[int]]:
        return [mixing.order(self._seed, "draw", self._by_source[s], self._digest) for s in sources]

    def _replay(self, train: int, validating: set[int]) -> mixing.ReplayDraw:
        section = self._section.replay
        if section is None:
            return mixing.ReplayDraw([], 0, 0)
        sources = range(len(self._section.train), len(self._by_source))
        for number in sources:
            self._by_source[number] = [i for i in self._by_source[number] if self._may_replay(i, validating)]
        weighted = self._section.mixture == "weighted"
        merged = [i for number in sources for i in self._by_source[number]]
        pools = self._ordered(sources) if weighted else [mixing.order(self._seed, "draw", merged, self._digest)]
        weights = [s.weight for s in section.sources] if weighted else None
        wanted = mixing.replay_count(train, section.share)
        return mixing.draw_replay(pools, weights, wanted, repeat=section.repeat)

    def _may_replay(self, index: int, validating: set[int]) -> bool:
        apart = self._clusters[index] not in validating
        if not apart:
            item = self._items[index]
            self._report.drop(item.origin, item.source, "replay like validation", "a validation row is nearly the same")
        return apart

    def _shuffled(self, train: list[int]) -> list[int]:
        """Sources among each other; a row that comes again is another draw each time."""
        seen: dict[int, int] = {}
        draws = []
        for index in train:
            seen[index] = seen.get(index, -1) + 1
            draws.append(self._digest(index) + seen[index].to_bytes(4, "big"))
        return [train[i] for i in mixing.order(self._seed, "train", range(len(train)), draws.__getitem__)]

    def _count(self, train: list[int], parts: splitting.Split, replay: mixing.ReplayDraw) -> None:
        report, done, section = self._report, self._report.realised, self._section
        for index in train:
            report.sources[self._items[index].source].train += 1
        for index in parts.validation:
            report.sources[self._items[index].source].validation += 1
        used = {*train, *parts.validation}
        for source, indexes in zip(report.sources, self._by_source, strict=True):
            source.unused = sum(i not in used for i in indexes)
        done.train, done.validation = len(train), len(parts.validation)
        done.validation_wanted, done.replay_wanted = section.validation, section.replay.share if section.replay else 0.0
        done.validation_share = len(parts.validation) / max(1, len(parts.train) + len(parts.validation))
        done.replay, done.replay_share = len(replay.rows), len(replay.rows) / max(1, len(train))
        done.replay_repeated = len(replay.rows) - len(set(replay.rows))
        self._tell(parts, replay)

    def _tell(self, parts: splitting.Split, replay: mixing.ReplayDraw) -> None:
        report = self._report
        if len(parts.validation) < parts.wanted:
            text = f"validation has {len(parts.validation)} rows instead of {parts.wanted}: clusters are kept whole"
            report.remark("warning", text)
        if replay.short:
            way_out = f"{report.realised.replay_repeated} rows are repeats" if report.realised.replay_repeated else (
                f"so its share is {report.realised.replay_share:.1%}; give it more rows, or say `repeat: true`"
            )  # fmt: skip
            report.remark("warning", f"replay has {replay.available} rows, and {replay.wanted} are wanted: {way_out}")
        elif self._section.replay is not None and not replay.wanted:
            report.remark("warning", "there are too few training rows for the replay's share to be even one row")
