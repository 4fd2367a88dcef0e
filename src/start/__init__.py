"""From a command line to checked jobs in folders, and back to an exit code. Only this package knows Hydra's CLI.

`launch` is called by train.py and inference.py. `command` parses and checks what was typed, `flags` and `words` look at
flags and at single overrides, `composer` composes configurations, `expand` turns the overrides of a sweep into jobs,
`plan` checks them, `reopen` continues an earlier sweep, of which it takes what `trust` allows, `append` adds jobs to
one, `folders` makes the folder, `handover` lets Hydra run the jobs, `job` is called for each of them, `messages`
explains errors.
"""
