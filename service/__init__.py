"""The service: answers convex scores and their gradients for versions that are proved convex before they are served.

The way of a request, one-way and downwards only:

1. `rest` or `rpc` receives bytes and knows the protocol: routes, status codes, headers. Nothing below knows it. What
   has no room, or could not be answered in time, is refused here unread (`crowding`), meanwhile on a processor that
   computes nothing (`apart`). Small requests that come together are answered by one thread (`rest.gathering`), in two
   stages: up to the batch, and from it.
2. `codecs` turns the body into an array. Syntax errors die here.
3. `scorer` is the one data plane that every transport calls: target, rows and wanted outputs in, answer out.
4. `registry.acquire` gives a lease on one live version. While the lease is held the version stays in memory; a request
   is answered by exactly one version, however many are published meanwhile.
5. `signature.validate` checks shape, width and finiteness against that version. Semantic errors die here.
6. `model_version.submit` hands the rows to the `batcher` of the version and the wanted outputs, with a `caller` that
   says until when somebody waits. `admission` refuses what has no room, `fair_queue` says whose turn it is, and what
   waits together is computed together. Rows for which nobody waits any more are dropped here.
7. The version's engine (`engines`) computes the batch: the lifted convex program on the CPU, or the SavedModel's own
   function on TensorFlow. `pieces` brings each row back to its owner, and an answer that left float32 is refused.
8. `codecs` turns the arrays into bytes again, and the transport sends them and tells `metrics` what it `answered`:
   `metric_families` lists what is counted (`request_statistics`, `batch_statistics`, `tensorflow_metrics` under the
   names of TensorFlow Serving), `exposition` writes it; `access_log` writes a line of it, which `line_writer` takes off
   the request's thread, as every line of `logs`.

The way of a version, beside it and never on a request's thread: `watcher` polls `repository` (what is on disk) and asks
`loads` for what is wanted: several at once, one of a model. Each calls `loading`, whose child, the `fork_server`,
forks a process that calls `loader` within `bounds` (hashes, safety rules, lifting and proof from
`program`, verification against the SavedModel). What passed comes back by the `answer_pipe` as `plain_data`, finds its
sizes of tiles, is warmed up and, by `outcomes`, published into `registry` (what is live); `retries` says when what
failed is tried again. `lifecycle` holds the states and the choice of the versions to keep. What
did not pass is refused with a rule and a reason, and the older version goes on serving.

`server` owns the process (start order, signals, drain), `worker` composes the parts, `fleet` lets several processes
serve as one (`--workers`), `__main__` is the command line,
`settings` names every number that an operator may change. `errors` is the bottom: one class per decision of a caller.

This module imports nothing: `python -m service --help` is fast, and a reader starts here.
"""
