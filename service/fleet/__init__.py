"""Several processes that serve as one: what a client sees of them is one server (`--workers N`).

`commander` is the supervisor's process: it binds both ports, starts the workers, replaces those that end, and decides
what is served. It answers no request. `member` is a worker: both protocols over a registry that mirrors the
commander's.

**Ports.** Both are bound by the commander before anything else, so that a port in use is an error at once (`ports`).
REST has one listening socket, of which every worker accepts: what a dead worker had not accepted is answered by
another. gRPC makes its own sockets, so there each worker has one (SO_REUSEPORT), beside a place that the commander
holds.

**Versions.** The commander's watcher and loading process prove a version once. It travels to the workers as plain
data in shared memory (`parcel`): the weights are there once, however many workers read them. One worker makes it
ready first, so that a version that ends its process ends one; then the others do. Each answers its probe and says
what bits came out; a version whose workers differ in a bit is refused. Only when all that live have it ready is it
published.

**The switch.** What is live (versions, labels, readiness, draining) is one numbered state in the commander. Each new
state goes to all workers, who keep it beside the old one and say that they have it; then the commander writes its
number into memory that all share (`moment`), and every worker looks at that number before it takes a version for a
request: the same store switches all of them at once. A client that has seen a version never sees an older one,
whichever worker it asks next. A worker that was held up meanwhile still reads the number first, and waits for the
state that it names. Nothing of this waits for a worker that is dead, or for more than two seconds for one that does
not answer.

**Ends.** A worker that ends unasked is replaced after a pause that grows with each failure; its successor has every
live version ready before it accepts its first connection. A worker whose engine hangs, and one that is silent for
half a minute, is killed and replaced likewise. When none can be kept any more, the server ends with exit code 1.
Workers end with the commander, whatever ends it: the system kills them, and the end of the channel says so too.

**Numbers.** Each worker tells the commander its numbers every second and whenever somebody reads `/metrics`, whose
page the commander makes of all of them: counters and histograms are sums, to which those of ended workers go on
belonging; gauges are sums, largest or smallest as `metric_families` says. A worker that is killed takes with it what
it counted since it last told: a second at most.

Workers are started as fresh interpreters, never forked from a process that has threads. Each is pinned to a processor
of its own where there are enough. Limits (threads, queues, crowding, connections) are each worker's own: N workers
take N times as much.
"""
