"""LLM judges: rubrics, the judges that apply them, and whether they have earned the right to block.

from harness.judging import evaluate

said = evaluate("faithfulness", output=…, context=…, model="openai/NAME", api_base="http://127.0.0.1:8000/v1")
said.state   # "scored", "abstained" or "failed"; said.value is None unless it is scored
"""

from harness.judging.evaluating import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
