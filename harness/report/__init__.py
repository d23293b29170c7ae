"""Reports: a verdict and its evidence as Markdown, JUnit XML and one self-contained HTML page. One module each."""
