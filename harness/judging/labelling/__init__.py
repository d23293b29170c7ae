"""Collects human labels of a stored run: which pairs are worth a look, and the local page on which people look."""
