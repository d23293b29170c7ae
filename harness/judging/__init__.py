"""LLM judges: rubrics, the judges that apply them, and whether they have earned the right to block.

For a notebook, one call; `said.state` is "scored", "abstained" or "failed", and there is a value only when scored:

    from harness.judging import evaluate

    said = evaluate("faithfulness", output=…, context=…, model="openai/NAME", api_base="http://127.0.0.1:8000/v1")
"""

from harness.judging.evaluating import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
