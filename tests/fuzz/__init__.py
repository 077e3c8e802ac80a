"""Mutated files, and random networks, calls and expressions; docs/safety.md says how to run them.

Files: each is read into something sound, or refused with the errors meant for it
(``python tests/fuzz ckit --seconds 300 --seed 1``). All else: cases drawn by seed are compared with
PyTorch, onnxruntime, or another way through convkit (``python tests/fuzz/networks.py``, see
`trials`). The tests run a few cases of each.
"""
