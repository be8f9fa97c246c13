"""Operators of block decoding as Triton kernels: block attention, pick, commit, accept and the low-rank branch.

One folder per operator: `api.py` checks the arguments, `triton.py` is the kernel. There is no second implementation
here and no fallback: an operator runs its kernel or raises. What pick, commit and accept return is defined by the rules
in plain torch, `nemotron_diffusion_plugin.rules`; the tests compare the two. Depends on torch and Triton only.
"""
