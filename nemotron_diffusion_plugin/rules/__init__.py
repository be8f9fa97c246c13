"""The engine-independent decoding rules in plain torch: noise, pick, block, commit, accept, stop and constrain.

They are the reference: servers compute by them unless told otherwise, and the Triton kernels are tested against them.
"""
