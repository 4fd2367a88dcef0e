"""Run the jobs of a sweep, each once, whatever gets killed on the way, and rank them.

`plan` holds the jobs. `carry_out` runs them: one after the other in this process, through one of Hydra's launchers
(`launchers`), or each in a process of its own (`processes`). `job` is the part that runs where a job runs, `queue` says
which job is next, `search` chooses jobs by the results so far, `state` reads how far each one is, `ledger` ranks them.
"""
