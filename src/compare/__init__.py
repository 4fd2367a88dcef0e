"""Compare runs: what was set differently, what each reached, how their curves run, where they fail on other images.

`compare` tells the story: `choose` finds the runs, `tables` and `mcnemar` work out what is said of them, `report`
shows and writes it.
"""
