"""Teachers and judges: a local model, a scripted one, a vLLM engine, a server; all behind one protocol."""
