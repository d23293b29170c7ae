from collections.abc import Iterator, Sequence
from harness.engine import Answers
from harness.engine._answers import Prompt
from harness.engine._decoding import decode_batch


class Writing:
    def __init__(self, passes, walk):
        self.p = passes

    def run(self, prompts):
        for p in prompts:
            yield decode_batch(self.p.causal, [p])
