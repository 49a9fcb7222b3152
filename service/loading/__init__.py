"""Loading versions in processes of their own: what a SavedModel does there, it does not do to the server.

`process` is the server's end: its `child` runs the `fork_server`, which imports TensorFlow and forks a process for each
load, which runs `service.loader` within `bounds`; the answer comes back through the `answer_pipe` as `plain_data`.
Above: `worker`, `bulk`. Below: `loader`. Importing it imports nothing.
"""
