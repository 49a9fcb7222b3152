"""gRPC: `server` composes, `prediction_service` and `model_service` speak TensorFlow Serving, `health` its own.

The package knows TensorFlow Serving's protocol and nothing of models; `scorer` and `registry` below do the work.
`worker` stands above.
"""
