"""LLM judges: rubrics, the judges that apply them, and whether they have earned the right to block."""
