"""Models: loading, adapters, scoring and generation. The only door to transformers and peft."""
