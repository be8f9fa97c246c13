"""What the vLLM and the SGLang plugin share; nothing here imports an engine."""
