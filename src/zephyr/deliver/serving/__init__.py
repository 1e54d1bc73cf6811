"""`zephyr serve`: a model over HTTP as the clients of OpenAI know it, in one process that has one port."""
