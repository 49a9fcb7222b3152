"""REST over Flask: `app` composes, `native` scores, `operations` shows state, `failures` is the form of every error.

The package knows HTTP and nothing of models; `scorer` and `registry` below do the work. `worker` stands above.
"""
