"""A sweep: its jobs are run, each once, whatever is killed on the way, and ranked.

`plan` is which jobs there are. `carry_out` goes from there to finished jobs: one after the other in this process,
through one of Hydra's launchers (`launchers`), or in processes of their own (`processes`). `job` is what happens where
a job runs, `queue` gives out the next one, `search` chooses it by the results so far, `state` reads how far each is,
`ledger` ranks them.
"""
