"""Running code that a model wrote, where it can harm nothing."""
