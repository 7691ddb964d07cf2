"""Reports: the answers of runs, read back, compared, drawn, and put on one page."""
