"""An Eagle3 head: the network, its training, its files, and how many of its drafts a target accepts."""
