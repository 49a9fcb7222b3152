"""Messages of TensorFlow Serving without TensorFlow: a descriptor set and the module that makes classes of it.

`tensorflow_serving` reads `tensorflow_serving.desc` into a descriptor pool of its own; `regenerate` writes that file.
Where the definitions come from and under which licence they are: `README.md` beside this file. The codecs and `rpc`
stand above.
"""
