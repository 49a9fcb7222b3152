"""Bytes to arrays and back: pure functions, limits first, nothing of a transport or a model's state.

One module a body form: `json`, `raw` (float32 octets), `tensor_proto`. Syntax errors die here, located; what an array
means for a version is `signature.validate`'s matter. The transports (`rest`, `rpc`) stand above, `signature` and
`protos` below.
"""
