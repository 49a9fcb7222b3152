"""Bytes to arrays and back: pure functions, limits first, nothing of a transport or a model's state.

One module a body form: `json`, `raw` (float32 octets), `npy`, `csv`, `arrow`, `tensor_proto`. `gzip` expands, and
`structure` and `fields` count what a JSON document and a protobuf message are made of before a parser makes it. Syntax
errors die here, located; what an array means for a version is `signature.validate`'s matter. The transports (`rest`,
`rpc`) stand above, `signature` and `protos` below.
"""
