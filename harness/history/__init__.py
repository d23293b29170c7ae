"""Runs over time: many run directories as one static site that opens from a folder, with no server and no network.

    reading    a run directory → what the site remembers of it, kept by the hashes of the run's files
    samples    a run's samples as files that the pages load piece by piece
    lineage    what was promoted over what: from a registry's ledger, or from the runs themselves
    flips      which samples turned since the last promotion
    plots      where every mark of a trend, and of learned against forgotten, lies
    tables     all comparisons as CSV and Parquet
    site       the pages

Every run is decided again from its evidence; a stored verdict is not believed. Nothing here loads a model.
"""
