"""Who does the asking: this process (`local`), later a cluster. The order and the chunks never depend on it."""
