"""A teacher behind an OpenAI-compatible address: requests, retries, limits, batch files."""
