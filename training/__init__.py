"""Training: the way of a batch, from a file of rows to a published version.

`datasets` reads rows and keeps the held-out ones away; `icnn` stacks `layers` over `activations`, `constraints` and
`initializers` into a network that is convex in its input by construction (`functions` are those that users write and
register, for a layer of their own); an objective of `objectives` starts a run of `runs` that fits it; `trainer` drives
the run, whose state `checkpoints` keeps on disk; `export` stages the files, which are loaded again and proved convex;
`gate` compares with the `champion`, the version that is served; `findings` and `report` say what was seen; `publish`
puts the files into the models folder. Nothing here is imported by `service`; of `service`, training uses the manifest,
the repository, the signature and the program.
"""
