"""MLServer's runtime with the server's own engine; the Open Inference Protocol's JSON by MLServer itself."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peer_servers import engine


class Model(MLModel):  # type: ignore[misc]  # not installed where types are checked
    """Rows to score and gradient."""

    async def load(self) -> bool:
        """Load the engine."""
        self.run = engine.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return score and gradient of the input's rows."""
        rows = np.asarray(NumpyCodec.decode_input(payload.inputs[0]), dtype=np.float32)
        scores, gradients = self.run(rows)
        outputs = [NumpyCodec.encode_output("score", scores), NumpyCodec.encode_output("gradient", gradients)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
