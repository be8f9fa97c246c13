"""Main process and tokenizer manager: defaults, flags and the admission check. Nothing here touches a tensor."""
