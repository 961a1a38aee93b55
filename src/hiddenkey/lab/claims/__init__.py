"""Claims and their evidence: plans fixed before the runs, one rule of verdict, one page."""
