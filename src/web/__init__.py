"""The page of `python inference.py task=serve`: HTTP, and nothing that is not in the folders of runs.

`serve` starts it, `app` puts it together, `guard` says who may ask. `index` finds runs and sweeps, `details` and
`results` read one, `images` shows its pictures, `predictions` computes, `jobs` starts and stops `train.py`, `reports`
asks it about images, `form` and `folders` are what the training form needs. `routes_*` have the addresses.
"""
