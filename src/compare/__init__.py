"""Compare runs: their settings, their results, their curves, and where they fail on other test images.

`compare` tells the story: `choose` finds the runs, `tables` and `mcnemar` compute the results, `report` prints and
writes them.
"""
