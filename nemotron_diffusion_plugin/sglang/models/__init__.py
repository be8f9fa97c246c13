"""The package that SGLang's model registry searches for model classes."""
