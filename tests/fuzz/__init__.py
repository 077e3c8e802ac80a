"""Mutated files: each is read into something sound, or refused with the errors meant for it.

``python tests/fuzz ckit --seconds 300 --seed 1`` runs one kind as long as asked for; the tests run
a few hundred cases of each. docs/safety.md says how to run all of it with sanitizers.
"""
