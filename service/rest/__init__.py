"""REST over Flask: `app` composes, `native` scores, `operations` shows state, `failures` is the form of every error.

`versions` describes one version; `files` gives out the page, whose files lie in `page/`. The package knows HTTP and
nothing of models; `scorer` and `registry` below do the work. `worker` stands above.
"""
