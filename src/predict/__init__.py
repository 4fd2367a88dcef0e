"""Use a run: `predictor` turns image files into class probabilities, `session` talks to the user in the terminal.

`inputs` finds the files, `output` writes the table, `summary` counts what was predicted. `embed` writes features or
finds neighbors; `load` is for other programs.
"""
