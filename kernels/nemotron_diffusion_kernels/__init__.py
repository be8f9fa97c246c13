"""Operators of block decoding as Triton kernels, each beside its reference in plain torch.

One package per operator. In each, `api.py` checks the arguments and
chooses the backend, `reference.py` states the mathematics and `triton.py` is the kernel. Depends on torch and
Triton only; without Triton the torch backends still work. The engines do not call these operators yet.
"""
