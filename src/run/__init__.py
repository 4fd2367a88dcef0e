"""The run directory: what a run writes, such that a kill at any moment loses no work.

`files` has all file names. `record` is the run in progress; its parts are `checkpoint`, `weights`, `history`, `log`,
`environment` and `messages`. `claim` gives a folder to one process. `saved` reads runs from disk, `validate` checks
what they hold, `query` filters and sorts them. `resume` is about continuing a run, `limits` about ending it early.
`job` is what a run is started with.
"""
