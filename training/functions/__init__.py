"""Functions of users: registered by name, checked when they are registered, saved by name and never as code.

Below `training.layers`, whose `Function` runs them; over `training.activations`. `registry` has the names,
`declarations` the scan that may refute what is declared, `derivatives` the finite differences that an analytic gradient
must agree with, `control_flow` decisions and loops on tensors, `tracing` what TensorFlow makes of a function.
"""
