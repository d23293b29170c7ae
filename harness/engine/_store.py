"""A radix tree of prefixes whose keys and values are kept, evicted by a memory budget.

Kept across calls for one subject: an adapter changes keys and values, so nothing is shared between subjects. A node
holds its own tokens' part only, so nested prefixes cost their tokens once. What a running pass needs is pinned; of the
rest the least recently used leaf goes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.engine._kv import Segment

_SHORTEST = 16  # tokens; a shorter prefix is quicker computed than looked after


class Kept:
    """A node: the tokens that it adds to its parent's, and their keys and values."""

    __slots__ = ("children", "parent", "pins", "segment", "serial", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], segment: Segment | None, parent: Kept | None) -> None:
        """A node without children; only the root of a subject without virtual tokens has no segment."""
        self.tokens = tokens
        self.segment = segment
        self.parent = parent
        self.children: dict[int, Kept] = {}
        self.pins = self.used = self.serial = 0

    @property
    def above(self) -> tuple[Kept, Segment]:
        """The parent and the segment, which every node but the root has."""
        if self.parent is None or self.segment is None:
            raise ValueError("the root cannot be split or dropped")
        return self.parent, self.segment

    @property
    def path(self) -> list[Segment]:
        """The segments from the first token to this node's last."""
        found: list[Segment] = []
        node: Kept | None = self
        while node is not None:
            if node.segment is not None:
                found.append(node.segment)
            node = node.parent
        return found[::-1]

    @property
    def length(self) -> int:
        """Tokens on the path, virtual ones included."""
        return sum(segment.length for segment in self.path)


class Store:
    """See the module. `budget` counts tokens; `root` holds a prompt-learning adapter's virtual tokens, if any."""

    def __init__(self, budget: int, root: Segment | None = None) -> None:
        """Nothing is kept yet but the virtual tokens, which always stay."""
        self.budget = budget
        self.root = Kept((), root, None)
        self.tokens = 0
        self._clock = 0

    def find(self, tokens: Sequence[int], limit: int) -> tuple[Kept, int]:
        """The node of the longest kept prefix within the first `limit` tokens, and the prefix's length."""
        node, done, limit = self.root, 0, min(limit, len(tokens))
        while done < limit:
            child = node.children.get(tokens[done])
            if child is None:
                break
            common = common_length(child.tokens, tokens[done:limit])
            if common < len(child.tokens) and done + common < _SHORTEST:
                break
            node = child if common == len(child.tokens) else self._split(child, common)
            done += common
        if done < _SHORTEST:
            return self.root, 0
        self._touch(node)
        return node, done

    def add(self, parent: Kept, tokens: tuple[int, ...], segment: Segment) -> Kept:
        """Keep what follows `parent`; memory is made by dropping what nobody has pinned."""
        while (child := parent.children.get(tokens[0])) is not None:
            common = common_length(child.tokens, tokens)
            parent = child if common == len(child.tokens) else self._split(child, common)
            if common == len(tokens):
                return parent
            tokens, segment = tokens[common:], segment.split(common)[1]
        node = Kept(tokens, segment, parent)
        parent.children[tokens[0]] = node
        self.tokens += segment.length
        self._touch(node)
        node.serial = self._clock
        node.pins += 1  # not the one that has just come
        self.shrink(self.budget)
        node.pins -= 1
        return node

    @property
    def pinned(self) -> int:
        """Tokens that cannot be dropped now: what is in use, and what that stands behind."""
        held: set[int] = set()
        total = 0
        for node in reversed(self._nodes()):  # children before parents
            if node.pins or any(id(child) in held for child in node.children.values()):
                held.add(id(node))
                total += node.above[1].length
        return total

    def shrink(self, budget: int) -> None:
        """Drop least recently used leaves until at most `budget` tokens are kept, or only pinned ones are left."""
        while self.tokens > budget:
            leaves = [n for n in self._nodes() if not n.children and not n.pins]
            if not leaves:
                return
            for node in sorted(leaves, key=lambda n: n.used):
                self._drop(node)
                if self.tokens <= budget:
                    return

    def _split(self, node: Kept, at: int) -> Kept:
        """Put a node for the first `at` tokens above `node`, which keeps the rest; whoever holds it sees no change."""
        parent, segment = node.above
        head, tail = segment.split(at)
        upper = Kept(node.tokens[:at], head, parent)
        parent.children[upper.tokens[0]] = upper
        upper.children[node.tokens[at]] = node
        upper.used, upper.serial = node.used, node.serial
        node.tokens, node.segment, node.parent = node.tokens[at:], tail, upper
        return upper

    def _drop(self, node: Kept) -> None:
        parent, segment = node.above
        del parent.children[node.tokens[0]]
        self.tokens -= segment.length

    def _touch(self, node: Kept | None) -> None:
        self._clock += 1
        while node is not None:
            node.used = self._clock
            node = node.parent

    def _nodes(self) -> list[Kept]:
        found, waiting = [], list(self.root.children.values())
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.children.values()
        return found


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix, by halving: slices compare in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
