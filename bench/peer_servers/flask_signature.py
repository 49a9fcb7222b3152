"""Flask calling TensorFlow's own signature, raw float32 in and out: what gunicorn's gthread workers serve."""

import os

import flask
import numpy as np
import tensorflow as tf

from bench.peer_servers.engine import MODEL

tf.config.threading.set_intra_op_parallelism_threads(1)  # the server has one core
tf.config.threading.set_inter_op_parallelism_threads(1)

app = flask.Flask(__name__)
_loaded = tf.saved_model.load(os.environ[MODEL])
_signature = _loaded.signatures["serving_default"]


@app.post("/score")
def score() -> flask.Response:
    """Answer float32 rows with the columns score and gradient."""
    dim = _signature.structured_input_signature[1]["x"].shape[1]
    rows = np.frombuffer(flask.request.get_data(cache=False), "<f4").reshape(-1, dim)
    outputs = _signature(x=tf.constant(rows))
    table = np.hstack([outputs["score"].numpy()[:, None], outputs["gradient"].numpy()])
    return flask.Response(table.tobytes(), mimetype="application/octet-stream")
