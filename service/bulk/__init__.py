"""Bulk scoring: the rows of a file in, the same rows with their scores out, without a server.

file -> `sources` (batches of columns) -> `columns` (the model's rows) -> an engine on every core -> `sinks` -> file.

`scoring` drives it, `versions` finds and loads the version, `progress` tells. The bits are the server's: a row's score
does not depend on its batch. Above: `__main__`. Below: `model_version`, `loading`, `repository`.
"""
