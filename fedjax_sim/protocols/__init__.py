"""The papers' experimental protocols, as bases that config files fill in.

One module a paper. Each reads the text behind the colon of `--config=FILE:TEXT`, so
that any cell of its tables has a name.
"""
