"""The run directory: what a run leaves behind, written so that a kill at any moment loses no work.

`files` spells every file name. `record` is the run being made (`checkpoint`, `history`, `log` and `environment` are
its parts); `saved` reads runs from the disk, `query` filters and sorts them; `resume` is about continuing one,
`limits` about what ends it early. `job` is what a run is asked to do.
"""
