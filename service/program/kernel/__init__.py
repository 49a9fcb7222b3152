"""The compiled kernel of the program engine: a plan of a program's steps, and C that runs it over rows.

`plan` writes the steps, `library` finds the compiled code, `build` compiles it, `compiled` runs both. The code
may be missing: `evaluation` computes the same functions with NumPy. Below: `program`, `operators`, `atoms`.
"""
