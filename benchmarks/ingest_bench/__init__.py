"""Parts of the ingestion benchmark: payloads, the load generator, and what a killed receiver left."""
