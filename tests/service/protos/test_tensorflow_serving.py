"""TensorFlow Serving's messages without TensorFlow, in a pool of their own."""

import subprocess
import sys

from google.protobuf import descriptor_pool

from service.protos import tensorflow_serving as protos


def test_messages_live_in_a_pool_of_their_own():
    """The default pool's file of the same name, if TensorFlow is loaded, is another one: they cannot collide."""
    assert descriptor_pool.Default() is not protos.PredictRequest.DESCRIPTOR.file.pool
    assert "tensorflow.serving.PredictRequest" == protos.PredictRequest.DESCRIPTOR.full_name


def test_import_of_the_messages_does_not_import_tensorflow():
    """The transports and codecs come up without TensorFlow and without the stock stubs."""
    code = (
        "import sys; import service.rpc.server, service.rest.app; "
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'tensorflow_serving', 'keras') for name in sys.modules))"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode


def test_enums_hold_the_numbers_of_the_wire():
    """The enums that we write by name have the numbers that clients know."""
    assert (1, 2) == (protos.DATA_TYPES["DT_FLOAT"], protos.DATA_TYPES["DT_DOUBLE"])
    assert (30, 50) == (protos.VERSION_STATES["AVAILABLE"], protos.VERSION_STATES["END"])
    assert 9 == protos.ERROR_CODES["FAILED_PRECONDITION"]
