"""REST over Flask: `app` composes, `native` scores, `operations` shows state, `failures` is the form of every error.

`server` is the HTTP server below it: `connection` reads requests (`request_reader`) and writes answers on an event
loop, `threads` have them answered by the application (`wsgi`), and `refusals` are those that it never sees. `bodies`
and `deadlines` are what a request says of itself. `versions` describes one version; `files` gives out the page, whose
files lie in `page/`. The package knows HTTP and nothing of models; `scorer` and `registry` below do the work. `worker`
stands above.
"""
