"""The committed message definitions are those of the stock stubs."""

from tensorflow_serving.apis import predict_pb2

from service.protos import tensorflow_serving as protos
from service.protos.regenerate import DESCRIPTOR_SET, descriptor_set


def test_committed_descriptor_set_is_what_the_stock_stubs_hold():
    """The file was written from the release of the stubs that is installed: nothing was changed or forgotten."""
    assert descriptor_set() == DESCRIPTOR_SET.read_bytes()


def test_both_sets_of_messages_live_in_one_process():
    """Our messages and the stock ones are loaded side by side, and read each other's bytes."""
    stock = predict_pb2.PredictRequest()
    stock.model_spec.name = "m"
    stock.inputs["x"].float_val.extend([1.5, -0.0])
    ours = protos.PredictRequest.FromString(stock.SerializeToString())
    assert type(ours) is not type(stock)
    assert stock.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
