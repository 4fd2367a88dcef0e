"""From a command line to checked jobs in folders, and back to an exit code; Hydra's command line lives here alone.

`launch` is called by train.py and inference.py. `command` parses and checks what was typed, `composer` is Hydra while
it composes, `expand` turns the words of a sweep into jobs, `plan` checks them, `reopen` continues an earlier sweep,
`folders` claims the folder, `job` is what Hydra calls, `messages` explains errors.
"""
