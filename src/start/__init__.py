"""From a command line to checked jobs in folders, and back to an exit code. Only this package knows Hydra's CLI.

`launch` is called by train.py and inference.py. `command` parses and checks what was typed, `composer` composes
configurations, `expand` turns the overrides of a sweep into jobs, `plan` checks them, `reopen` continues an earlier
sweep, `folders` makes the folder, `job` is called by Hydra for each job, `messages` explains errors.
"""
