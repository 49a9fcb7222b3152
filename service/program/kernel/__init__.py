"""The compiled kernel of the program engine: a plan of a program's steps, and C that runs it over rows.

`plan` writes the steps, `joining` joins them, `library` finds the compiled code, `build` compiles it, `compiled` runs
both, and `sharing` tells how many threads may run one large call. The code may be missing: `evaluation` computes the
same functions with NumPy. Below: `program`, `operators`, `atoms`.
"""
